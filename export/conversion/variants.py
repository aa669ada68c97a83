"""What a `.tflite` file can be: number formats, input and output types, heads, targets."""

import dataclasses
import enum


class Variant(enum.Enum):
    """Number format of weights and arithmetic."""

    FLOAT32 = "float32"
    """float32 -> float32 weights and arithmetic -> float32."""
    FLOAT16 = "float16"
    """float16 weights, converted to float32 when the interpreter starts."""
    DYNAMIC_RANGE = "dynamic_range"
    """int8 weights, activations quantized on the fly inside each operator; float between."""
    INT8 = "int8"
    """int8 weights and activations, ranges from calibration: post-training quantization."""
    INT8_FLOAT_FALLBACK = "int8_float_fallback"
    """The same, but an operator without an integer kernel stays float."""
    INT16X8 = "int16x8"
    """int8 weights, int16 activations, ranges from calibration."""
    QAT_INT8 = "qat_int8"
    """int8 weights and activations, ranges and weights from quantization-aware training."""


class IoDtype(enum.Enum):
    """Type of a file's input or output."""

    FLOAT32 = "float32"
    UINT8 = "uint8"
    INT8 = "int8"


class Head(enum.Enum):
    """What the file computes after the network's logits."""

    LOGITS = "logits"
    """Bilinear resize (half-pixel centres) to the input size: what other programs expect."""
    LOGITS_LOW = "logits_low"
    """Logits at the network's own resolution, for callers that resize themselves."""
    ARGMAX = "argmax"
    """Bilinear resize, then argmax: uint8 [1, height, width] class map."""
    ARGMAX_HALF = "argmax_half"
    """Bilinear resize to half the input size, argmax, then nearest: edges are accurate to two
    pixels, for a quarter of the cost of resize and argmax."""
    ARGMAX_LOW = "argmax_low"
    """Argmax at the network's resolution, then nearest: the fastest class map."""

    @property
    def gives_classes(self) -> bool:
        """Whether the output is a class map instead of logits."""
        return self in (Head.ARGMAX, Head.ARGMAX_HALF, Head.ARGMAX_LOW)


class Target(enum.Enum):
    """Accelerator that the integer files are made for."""

    NONE = "none"
    """Any processor."""
    EDGETPU = "edgetpu"
    """Logits at the network's own resolution and resizes that the compiler maps; the host resizes
    the logits and takes the argmax."""


@dataclasses.dataclass(frozen=True)
class VariantRule:
    """How a variant is made, and what its file must fulfil.

    Attributes:
        quantization_aware: it is made from the quantization-aware graph.
        calibrated: it needs calibration images.
        integer_only: only input and output of the file may be float tensors.
        float_io_only: input and output are float32 and cannot be chosen.
        class_heads: whether ARG_MAX has a kernel in this format.
    """

    quantization_aware: bool = False
    calibrated: bool = False
    integer_only: bool = False
    float_io_only: bool = True
    class_heads: bool = True


RULES = {
    Variant.FLOAT32: VariantRule(),
    Variant.FLOAT16: VariantRule(),
    Variant.DYNAMIC_RANGE: VariantRule(),
    Variant.INT8: VariantRule(calibrated=True, integer_only=True, float_io_only=False),
    Variant.INT8_FLOAT_FALLBACK: VariantRule(calibrated=True),
    Variant.INT16X8: VariantRule(calibrated=True, integer_only=True, class_heads=False),
    Variant.QAT_INT8: VariantRule(quantization_aware=True, integer_only=True, float_io_only=False),
}


@dataclasses.dataclass(frozen=True)
class FileSpec:
    """One `.tflite` file to be made.

    Attributes:
        variant: number format.
        head: what it computes after the logits.
        input_dtype: type of its input tensor.
        output_dtype: type of its output tensor; class maps are always uint8.
    """

    variant: Variant
    head: Head
    input_dtype: IoDtype
    output_dtype: IoDtype

    @property
    def file_name(self) -> str:
        """Name of the file, such as `int8_argmax.tflite`."""
        suffix = "" if self.head is Head.LOGITS else f"_{self.head.value}"
        return f"{self.variant.value}{suffix}.tflite"


def plan_files(
    variants: list[Variant],
    heads: list[Head],
    *,
    input_dtype: IoDtype = IoDtype.UINT8,
    output_dtype: IoDtype = IoDtype.UINT8,
) -> tuple[list[FileSpec], list[str]]:
    """Lists the files for each variant and head.

    Args:
        variants: number formats.
        heads: what comes after the logits.
        input_dtype: input type of full-integer files.
        output_dtype: output type of full-integer files.

    Returns:
        the files, and one line for each combination that does not exist.
    """
    files, left_out = [], []
    for head in heads:
        for variant in variants:
            rule = RULES[variant]
            if head.gives_classes and not rule.class_heads:
                left_out.append(
                    f"{variant.value} with head {head.value}: ARG_MAX has no int16 kernel; "
                    "use the logits head"
                )
                continue
            if rule.float_io_only:
                files.append(
                    FileSpec(
                        variant, head, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
                    )
                )
            else:
                files.append(
                    FileSpec(variant, head, input_dtype=input_dtype, output_dtype=output_dtype)
                )
    return files, left_out

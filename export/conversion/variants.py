"""The forms that a network is shipped in: number formats, input and output types, heads."""

import dataclasses
import enum


class Variant(enum.Enum):
    """Number format of weights and arithmetic."""

    FLOAT32 = "float32"
    """float32 -> float32 weights and arithmetic -> float32."""
    FLOAT16 = "float16"
    """float16 weights, turned into float32 when the interpreter starts."""
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
    """What comes after the network's logits."""

    LOGITS = "logits"
    """Bilinear resize (half-pixel centres) to the input size: what other programs expect."""
    LOGITS_LOW = "logits_low"
    """The network's own resolution, for callers that resize themselves."""
    ARGMAX = "argmax"
    """Bilinear resize, then argmax: uint8 [1, height, width] class map."""
    ARGMAX_HALF = "argmax_half"
    """Bilinear resize to half the input size, argmax, then nearest: edges on every second pixel,
    for a quarter of the resize and the argmax."""
    ARGMAX_LOW = "argmax_low"
    """Argmax at the network's resolution, then nearest: the fastest class map."""

    @property
    def gives_classes(self) -> bool:
        return self in (Head.ARGMAX, Head.ARGMAX_HALF, Head.ARGMAX_LOW)


class Target(enum.Enum):
    """Accelerator whose forms the integer files take."""

    NONE = "none"
    """Any processor."""
    EDGETPU = "edgetpu"
    """Logits at the network's own resolution, resizes that map; resize and argmax on the host."""


@dataclasses.dataclass(frozen=True)
class VariantRule:
    """How a variant is made and what must be true of the file.

    Attributes:
        quantization_aware: made from the quantization-aware graph.
        calibrated: needs calibration images.
        integer_only: the file may hold no float tensor but its input and output.
        float_io_only: input and output types cannot be chosen.
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
    """One `.tflite` to be made.

    Attributes:
        variant, head: what it holds.
        input_dtype, output_dtype: of its tensors; class maps are uint8 whatever is asked.
    """

    variant: Variant
    head: Head
    input_dtype: IoDtype
    output_dtype: IoDtype

    @property
    def file_name(self) -> str:
        suffix = "" if self.head is Head.LOGITS else f"_{self.head.value}"
        return f"{self.variant.value}{suffix}.tflite"


def plan_files(
    variants: list[Variant],
    heads: list[Head],
    *,
    input_dtype: IoDtype = IoDtype.UINT8,
    output_dtype: IoDtype = IoDtype.UINT8,
) -> tuple[list[FileSpec], list[str]]:
    """The files for each variant and head.

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

"""What a `.tflite` takes and gives: from its own tensors, and its manifest where there is one."""

import dataclasses
import pathlib

import numpy as np

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.graph import Graph, Tensor, read_graph
from tflite_tools.manifest import Manifest, read_manifest

INPUT_DTYPES = ("FLOAT32", "UINT8", "INT8")
_SCALE_TOLERANCE = 0.02
"""Relative. 1/127.5 against 1/128 differs by 0.4%: half a gray level at the brightest pixel."""


@dataclasses.dataclass(frozen=True)
class ModelContract:
    """How a file is fed and read.

    Attributes:
        path: the file.
        name: short name for tables.
        size_bytes: of the file.
        height, width, channels: of the input.
        input_dtype, output_dtype: NumPy dtypes.
        input_quantization, output_quantization: (scale, zero point) or None.
        preprocessing: normalization that the photos get.
        classes_output: True for a class map, False for logits.
        output_shape: of the output tensor.
        num_classes: channels of the logits, or None for a class map.
        label_set: of the manifest, or None.
        variant: of the manifest, or "".
        warnings: what does not fit together, one line each.
    """

    path: pathlib.Path
    name: str
    size_bytes: int
    height: int
    width: int
    channels: int
    input_dtype: np.dtype
    output_dtype: np.dtype
    input_quantization: tuple[float, int] | None
    output_quantization: tuple[float, int] | None
    preprocessing: Preprocessing
    classes_output: bool
    output_shape: tuple[int, ...]
    num_classes: int | None
    label_set: LabelSet | None
    variant: str
    warnings: tuple[str, ...]

    def quantize_table(self) -> np.ndarray | None:
        """Input value of each pixel value, or None where pixels go in unchanged.

        Returns:
            input dtype [256, channels].
        """
        pixels = np.repeat(np.arange(256, dtype=np.uint8)[:, None], self.channels, axis=1)
        normalized = self.preprocessing.normalize(pixels)
        if self.input_quantization is None:
            return normalized
        scale, zero_point = self.input_quantization
        limits = np.iinfo(self.input_dtype)
        quantized = np.rint(normalized / scale) + zero_point
        table = quantized.clip(limits.min, limits.max).astype(self.input_dtype)
        return None if np.array_equal(table, pixels) else table


def read_contract(
    path: str | pathlib.Path, preprocessing: Preprocessing | None = None, name: str = ""
) -> ModelContract:
    """Reads and checks a file without running it.

    Args:
        path: the file.
        preprocessing: normalization to use; default the manifest's, else for integer inputs
            the one that the input's own scale and zero point stand for, else (x - 128) / 128.
        name: for tables; default the file's stem.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or not a segmentation model with one image input.
    """
    path = pathlib.Path(path)
    graph = read_graph(path)
    manifest = read_manifest(path)
    if len(graph.inputs) != 1:
        raise ValueError(f"{path}: {len(graph.inputs)} inputs; only models with one are evaluated")
    image, output = graph.tensors[graph.inputs[0]], graph.tensors[graph.outputs[0]]
    input_dtype = _check_input(path, image)
    classes_output, num_classes = _check_output(path, output)
    warnings: list[str] = []
    if len(graph.outputs) > 1:
        warnings.append(f"{len(graph.outputs)} outputs; the first, {output.name!r}, is read")
    quantization = _per_tensor(image)
    used = preprocessing or _preprocessing(manifest, image.shape[3], quantization, image)
    warnings += _check_quantization(used, image, quantization)
    return ModelContract(
        path=path,
        name=name or path.stem,
        size_bytes=graph.size_bytes,
        height=image.shape[1],
        width=image.shape[2],
        channels=image.shape[3],
        input_dtype=input_dtype,
        output_dtype=output.dtype,  # type: ignore[arg-type]
        input_quantization=quantization,
        output_quantization=_per_tensor(output),
        preprocessing=used,
        classes_output=classes_output,
        output_shape=output.shape,
        num_classes=num_classes,
        label_set=manifest.label_set if manifest else None,
        variant=manifest.variant if manifest else _guess_variant(graph),
        warnings=tuple(warnings),
    )


def _check_input(path, image: Tensor) -> np.dtype:
    supported = image.dtype is not None and image.type_name in INPUT_DTYPES
    if len(image.shape) != 4 or image.shape[0] != 1 or not supported:
        raise ValueError(
            f"{path}: input {image.name!r} is {image.type_name} {list(image.shape)}; an image "
            "model takes uint8, int8 or float32 [1, height, width, channels]"
        )
    if image.quantization is not None and not (image.quantization.scale > 0).all():
        raise ValueError(f"{path}: input {image.name!r} has no positive scale; convert it again")
    if min(image.shape) < 1 or image.shape[1] * image.shape[2] > 1 << 28:
        raise ValueError(f"{path}: input {image.name!r} has no usable size {list(image.shape)}")
    return image.dtype  # type: ignore[return-value]


def _check_output(path, output: Tensor) -> tuple[bool, int | None]:
    shape = output.shape
    if len(shape) == 4 and shape[0] == 1 and shape[3] > 1:
        return False, shape[3]
    squeezed = tuple(size for size in shape if size != 1)
    scores = output.is_float or output.quantization is not None
    if scores and len(squeezed) == 2 and len(shape) == 4 and shape[-1] == 1:
        raise ValueError(
            f"{path}: output {output.name!r} is one channel of scores {list(shape)}, not a class "
            "map; give two channels, or threshold it in the graph"
        )
    if len(squeezed) == 2 and output.dtype is not None:
        return True, None
    raise ValueError(
        f"{path}: output {output.name!r} is {output.type_name} {list(shape)}; a segmentation "
        "model gives [1, h, w, classes] logits or a [1, h, w] class map"
    )


def _per_tensor(tensor: Tensor) -> tuple[float, int] | None:
    if tensor.quantization is None or tensor.is_float:
        return None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def _preprocessing(manifest: Manifest | None, channels: int, quantization, image) -> Preprocessing:
    if manifest is not None:
        return manifest.preprocessing
    if quantization is None:
        return Preprocessing((128.0,) * channels, (128.0,) * channels)
    scale, zero_point = quantization
    shift = 128 if image.type_name == "INT8" else 0
    return Preprocessing((float(zero_point + shift),) * channels, (1.0 / scale,) * channels)


def _check_quantization(preprocessing: Preprocessing, image: Tensor, quantization) -> list[str]:
    """Whether the input's range holds the normalized pixels, and not much more."""
    if quantization is None:
        return []
    scale, zero_point = quantization
    limits = np.iinfo(image.dtype)
    low, high = (scale * (edge - zero_point) for edge in (limits.min, limits.max))
    wanted_low, wanted_high = preprocessing.input_range
    slack = _SCALE_TOLERANCE * (wanted_high - wanted_low)
    if abs(low - wanted_low) <= slack and abs(high - wanted_high) <= slack:
        return []
    return [
        f"input scale {scale:.6g} and zero point {zero_point} stand for [{low:.3g}, {high:.3g}], "
        f"the preprocessing gives [{wanted_low:.3g}, {wanted_high:.3g}]: calibrated on images "
        "that were normalized in another way? Calibrate again, or give the file's own --mean, --std"
    ]


def _guess_variant(graph: Graph) -> str:
    """A name for the number format of a file without a manifest."""
    weights = {
        graph.tensors[operator.inputs[1]].type_name
        for operator in graph.operators
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D") and len(operator.inputs) > 1
    }
    computed = {
        graph.tensors[operator.outputs[0]].type_name
        for operator in graph.operators
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D")
    }
    kinds = {operator.kind for operator in graph.operators}
    if weights == {"FLOAT32"}:
        return "float16" if "DEQUANTIZE" in kinds else "float32"
    if computed == {"FLOAT32"}:
        return "dynamic_range"
    return "/".join(sorted(name.lower() for name in computed)) or "unknown"

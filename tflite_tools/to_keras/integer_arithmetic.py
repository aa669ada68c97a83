"""Reads activation ranges and the rescaling arithmetic of an integer file.

The arithmetic is that of XNNPACK, which the runtime uses by default, and that of the built-in
kernels for operators that XNNPACK does not have. Where both have a kernel, the built-in one rounds
in other places.
"""

import math
from typing import Any, TypeVar

import numpy as np

from tflite_tools.flatbuffer.graph import Tensor
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits
from tflite_tools.to_keras.kernel_tables import kernel_table
from tflite_tools.to_keras.view import INTEGER_RANGES, OperatorView

_Ratio = TypeVar("_Ratio", bound=np.ndarray | np.float32)


def activation_range(tensor: Tensor) -> dict[str, Any] | None:
    """Returns the range of a quantized tensor: its scale, integers and real limits.

    Args:
        tensor: the tensor.

    Returns:
        {scale, zero_point, quantized_min, quantized_max, min, max, dtype}; None for a tensor
        that is not quantized, or quantized per channel.
    """
    quantization = tensor.quantization
    if quantization is None or tensor.type_name not in INTEGER_RANGES or quantization.per_channel:
        return None
    low, high = INTEGER_RANGES[tensor.type_name]
    scale, zero_point = float(quantization.scale[0]), int(quantization.zero_point[0])
    return {
        "scale": scale,
        "zero_point": zero_point,
        "quantized_min": low,
        "quantized_max": high,
        "min": scale * (low - zero_point),
        "max": scale * (high - zero_point),
        "dtype": tensor.type_name.lower(),
    }


def integer_arithmetic(view: OperatorView) -> dict[str, dict[str, Any]]:
    """Returns how the kernel computes an operator's integer output.

    Args:
        view: the operator.

    Returns:
        {"accumulator": {accumulator_scale, multiplier, half_up}},
        {"accumulator": {inverse_scale}}, {"accumulator": {half_away}}, {"accumulator": {copied}},
        {"addends": {input_scales, multipliers}},
        {"softmax": {input_scale, scale}} or
        {"table": {input_scale, input_offset, scale, zero_point, table}},
        see `deeplab_tf.graph.layers`; empty where the arithmetic is not known.

    Raises:
        ValueError: the ratio of two scales is not finite.
    """
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return _arithmetic(view)


def copies_other_scale(view: OperatorView) -> bool:
    """Returns whether the operator is a resize to another scale or zero point.

    XNNPACK rejects such a file, and the built-in kernels copy the integers, so that the real
    values change.

    Args:
        view: the operator.
    """
    tensors = view.input(0), view.output
    return (
        view.operator.kind in ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
        and all(activation_range(tensor) is not None for tensor in tensors)
        and _scale_and_zero_point(tensors[0]) != _scale_and_zero_point(tensors[1])
    )


def _arithmetic(view: OperatorView) -> dict[str, dict[str, Any]]:
    kind, target = view.operator.kind, view.output
    source = view.input(traits(kind).data or 0)
    if target.quantization is None:
        return {}
    out = target.quantization.scale[0]
    if source.quantization is None:
        inverse = float(_finite(np.float32(1) / out))
        return {"accumulator": {"inverse_scale": inverse}} if kind == "QUANTIZE" else {}
    scale = source.quantization.scale[0]
    if table := kernel_table(view):
        return {"table": _table(source, target, table=table)}
    if kind == "SOFTMAX" and view.options.beta == 1:
        return {"softmax": {"input_scale": float(scale), "scale": float(out)}}
    second = view.input(1).quantization if view.has_input(1) else None
    if kind in CONVOLUTIONS and second is not None:
        return _accumulator(scale * second.scale, scale * second.scale / out)
    if copies_other_scale(view):
        return {"accumulator": {"copied": _scale_and_zero_point(source)}}
    if kind == "AVERAGE_POOL_2D":  # always computed by the built-in kernels
        return {"accumulator": {"half_away": True}}
    if kind == "MEAN":
        count = np.float32(math.prod(source.shape) / max(math.prod(target.shape), 1))
        return _accumulator(scale / count, scale / (out * count))
    if kind == "QUANTIZE":  # a factor with eight fractional bits
        return _accumulator(scale, np.round(np.float32(256) * (scale / out)) / 256, half_up=True)
    if second is None:
        return {}
    if kind == "MUL":
        product = scale * second.scale[0]
        return _accumulator(product, product / out)
    if kind in ("ADD", "SUB"):
        if view.is_constant(0) or view.is_constant(1):
            return _constant_addend(view, scale, second=second.scale[0], out=out)
        return {"addends": _addends(scale, second.scale[0], out=out, subtract=kind == "SUB")}
    return {}


def _table(source: Tensor, target: Tensor, *, table: list[int]) -> dict[str, Any]:
    low, _ = INTEGER_RANGES[source.type_name]
    scale, zero_point = _scale_and_zero_point(source)
    out_scale, out_zero_point = _scale_and_zero_point(target)
    return {
        "input_scale": scale,
        "input_offset": zero_point - low,
        "scale": out_scale,
        "zero_point": out_zero_point,
        "table": table,
    }


def _scale_and_zero_point(tensor: Tensor) -> tuple[float, int]:
    assert tensor.quantization is not None
    return float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])


def _finite(ratio: _Ratio) -> _Ratio:
    if not np.isfinite(ratio).all():
        raise ValueError(
            "the ratio of an operator's quantization scales is not finite; the file is damaged, "
            "convert it again"
        )
    return ratio


def _accumulator(
    sums: np.ndarray | np.float32, multiplier: np.ndarray | np.float32, *, half_up: bool = False
) -> dict[str, dict[str, Any]]:
    return {
        "accumulator": {
            "accumulator_scale": np.squeeze(_finite(sums)).tolist(),
            "multiplier": np.squeeze(_finite(multiplier)).tolist(),
            "half_up": half_up,
        }
    }


def _constant_addend(
    view: OperatorView, first: np.float32, *, second: np.float32, out: np.float32
) -> dict[str, dict[str, Any]]:
    """Returns the arithmetic of a sum or difference with a constant, one value or per channel.

    A ReLU6 clips the sum before its integers can be recovered: the result is empty then.
    """
    constant = view.floats(0 if view.is_constant(0) else 1)
    kind, fused = view.operator.kind, view.activation()
    if constant.size not in (1, view.output.shape[-1]):
        return {}
    if any(step.kind != "relu" or "max_value" in step.attributes for step in fused):
        return {}
    multipliers = _addends(first, second, out=out, subtract=False)["multipliers"]
    scales = [float(first), float(second)]
    if view.is_constant(0):
        multipliers, scales = multipliers[::-1], scales[::-1]
    offset = np.float64(constant).ravel()
    if kind == "SUB" and view.is_constant(1):
        offset = -offset
    return {
        "accumulator": {
            "addend": {
                "input_scale": scales[0],
                "multiplier": multipliers[0],
                "offset": offset.tolist(),
                "terms": (np.round(offset / scales[1]) * multipliers[1]).tolist(),
            }
        }
    }


def _addends(
    first: np.float32, second: np.float32, *, out: np.float32, subtract: bool
) -> dict[str, list[float]]:
    """Returns both factors as multiples of one power of two, the larger with 21 bits."""
    factors = [float(_finite(first / out)), float(_finite(second / out))]
    shift = 20 - math.floor(math.log2(max(factors)))
    multipliers = [round(factor * 2.0**shift) / 2.0**shift for factor in factors]
    if subtract:
        multipliers[1] = -multipliers[1]
    return {"input_scales": [float(first), float(second)], "multipliers": multipliers}

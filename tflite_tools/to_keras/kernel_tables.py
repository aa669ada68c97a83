"""Computes the output of the runtime's activation kernels for each of the 256 8-bit values.

XNNPACK computes LEAKY_RELU, LOGISTIC and TANH. RELU and its variants, HARD_SWISH and a QUANTIZE
between int8 and uint8 are computed by the built-in kernels, which multiply by 31-bit fixed-point
numbers (Jacob et al. 2018, arXiv:1712.05877, section 2.2).
"""

import math
from collections.abc import Callable

import numpy as np

from tflite_tools.flatbuffer.graph import Tensor
from tflite_tools.to_keras.view import INTEGER_RANGES, OperatorView

_LIMITS = {
    "RELU": (0.0, math.inf),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
    "RELU_0_TO_1": (0.0, 1.0),
}
_SMOOTH: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "LOGISTIC": lambda real: np.float32(1) / (np.float32(1) + np.exp(-real)),
    "TANH": np.tanh,
}
"""Computed in float32 for each of the 256 values, once; TensorFlow's own differ in the last bits,
which moves a value that is nearly a tie."""
_INT16 = 2**15


def kernel_table(view: OperatorView) -> list[int] | None:
    """Returns the output of a kernel for every input value, from the smallest to the largest.

    Args:
        view: the operator.

    Returns:
        256 integers; None where the kernel is not a function of one 8-bit value, or not known.
    """
    kind, source, target = view.operator.kind, view.input(0), view.output
    if not (_is_8_bit(source) and _is_8_bit(target)):
        return None
    first, last = INTEGER_RANGES[source.type_name]
    values = np.arange(first, last + 1, dtype=np.int64) - _zero_point(source)
    if kind == "HARD_SWISH":
        steps = hard_swish(values, _scale(source), out_scale=_scale(target))
    elif kind == "LEAKY_RELU":
        steps = leaky_relu(
            values, _scale(source) / _scale(target), alpha=np.float32(view.options.alpha)
        )
    elif kind in _SMOOTH:
        real = _scale(source) * values.astype(np.float32)
        steps = np.rint(_SMOOTH[kind](real) / _scale(target)).astype(np.int64)
    elif kind in _LIMITS:
        steps = fixed_point_product(values, float(_scale(source) / _scale(target)))
        low, high = (end / float(_scale(target)) for end in _LIMITS[kind])
        steps = np.clip(steps, _round(low), high if math.isinf(high) else _round(high))
    elif kind == "QUANTIZE" and source.type_name != target.type_name:
        steps = fixed_point_product(values, float(_scale(source)) / float(_scale(target)))
    else:
        return None
    low, high = INTEGER_RANGES[target.type_name]
    return [int(step) for step in np.clip(steps + _zero_point(target), low, high)]


def _is_8_bit(tensor: Tensor) -> bool:
    quantization = tensor.quantization
    return (
        tensor.type_name in ("UINT8", "INT8")
        and quantization is not None
        and not quantization.per_channel
    )


def _scale(tensor: Tensor) -> np.float32:
    assert tensor.quantization is not None
    return np.float32(tensor.quantization.scale[0])


def _zero_point(tensor: Tensor) -> int:
    assert tensor.quantization is not None
    return int(tensor.quantization.zero_point[0])


def _round(value: float) -> int:
    """Rounds halves away from zero, as C's round does."""
    return math.floor(value + 0.5) if value >= 0 else -math.floor(-value + 0.5)


def fixed_point(real: float) -> tuple[int, int]:
    """Returns a real number in fixed point.

    Args:
        real: positive number.

    Returns:
        (multiplier, exponent): real = multiplier * 2^(exponent - 31), multiplier of 31 bits.
    """
    fraction, exponent = math.frexp(real)
    multiplier = _round(fraction * 2**31)
    if multiplier == 2**31:
        multiplier, exponent = multiplier // 2, exponent + 1
    return (multiplier, exponent) if exponent >= -31 else (0, 0)


def fixed_point_product(values: np.ndarray, real: float) -> np.ndarray:
    """Multiplies integers by a real number in fixed point, rounded twice.

    The runtime's function is `MultiplyByQuantizedMultiplier`.

    Args:
        values: int64, any shape.
        real: positive factor.

    Returns:
        int64 of the same shape.
    """
    multiplier, exponent = fixed_point(real)
    product = _doubling_high_product(values * 2 ** max(exponent, 0), multiplier, bits=31)
    return _divided_by_power_of_two(product, max(-exponent, 0))


def _doubling_high_product(values: np.ndarray, factor: int, *, bits: int) -> np.ndarray:
    """Computes values * factor / 2^bits, rounded to nearest, halves up.

    It is (product + nudge) / 2^bits, where the division truncates towards zero.
    """
    product = values * factor
    nudge = np.where(product >= 0, 2 ** (bits - 1), 1 - 2 ** (bits - 1))
    return np.sign(product + nudge) * (np.abs(product + nudge) >> bits)


def _divided_by_power_of_two(values: np.ndarray, exponent: int) -> np.ndarray:
    """Computes values / 2^exponent, rounded to nearest, halves away from zero."""
    if exponent == 0:
        return values
    mask = 2**exponent - 1
    threshold = (mask >> 1) + (values < 0)
    return (values >> exponent) + ((values & mask) > threshold)


def _saturated(values: np.ndarray) -> np.ndarray:
    return np.clip(values, -_INT16, _INT16 - 1)


def _fixed_point_16(real: float) -> tuple[int, int]:
    multiplier, exponent = fixed_point(real)
    return min((multiplier + 2**15) >> 16, _INT16 - 1), exponent


def hard_swish(values: np.ndarray, scale: np.float32, *, out_scale: np.float32) -> np.ndarray:
    """Computes x * relu6(x + 3) / 6 in 16-bit fixed point (`reference/hard_swish.h`).

    Args:
        values: quantized - zero_point of the input, int64.
        scale: scale of the input.
        out_scale: scale of the output.

    Returns:
        quantized - zero_point of the output, int64, before it is clipped.
    """
    fine_scale = np.float32(1 / 128) * scale
    fine = values * 128
    multiplier, exponent = _fixed_point_16(float(fine_scale / out_scale))
    on_output_scale = _doubling_high_product(fine, multiplier, bits=15)
    gate_multiplier, gate_exponent = _fixed_point_16(
        float(fine_scale / (np.float32(3) / np.float32(_INT16)))
    )
    gate = fine
    if gate_exponent > 0:
        gate = _saturated(gate * 2 ** (gate_exponent - 1))
    gate = _doubling_high_product(gate, gate_multiplier, bits=15)
    if gate_exponent > 0:
        gate = _saturated(gate * 2)
    gate = _divided_by_power_of_two(gate, max(-gate_exponent, 0))
    gate = (gate + _INT16) >> 1  # [-1, 1] to [0, 1]
    product = gate * on_output_scale
    product = np.sign(product) * (np.abs(product) >> 15)  # towards zero
    return _divided_by_power_of_two(product, -exponent)


def leaky_relu(values: np.ndarray, ratio: np.float32, *, alpha: np.float32) -> np.ndarray:
    """Computes a leaky ReLU with factors of eight fractional bits (XNNPACK's `qs8-vlrelu`).

    Args:
        values: quantized - zero_point of the input, int64.
        ratio: scale of the input / scale of the output.
        alpha: slope of negative values.

    Returns:
        quantized - zero_point of the output, int64, halves rounded up, before it is clipped.
    """
    positive = np.round(np.float32(256) * ratio)
    negative = np.round(np.float32(256) * (ratio * alpha))
    factors = np.where(values >= 0, positive, negative).astype(np.int64)
    return (values * factors + 128) >> 8

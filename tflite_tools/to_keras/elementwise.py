"""Import rules for sums, products and activations."""

from collections.abc import Callable

import numpy as np

from tflite_tools.flatbuffer.graph import Tensor
from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, Step, activation_steps

PER_CHANNEL = "a constant for each channel"
"""Note of the 1x1 depthwise convolution that replaces a product or sum with constants."""

_Constant = np.ndarray | np.float32
_ScaleAndOffset = tuple[_Constant | None, _Constant | None]


@rule("ADD")
def add(view: OperatorView) -> list[Step]:
    """Imports a sum of two tensors, or of a tensor and a constant."""
    return _binary(view, "add", as_scale_and_offset=lambda constant, first: (None, constant))


@rule("SUB")
def subtract(view: OperatorView) -> list[Step]:
    """Imports a difference of two tensors, or of a tensor and a constant in either order."""
    return _binary(
        view,
        "subtract",
        as_scale_and_offset=lambda constant, first: (
            (np.float32(-1), constant) if first else (None, -constant)
        ),
    )


@rule("MUL")
def multiply(view: OperatorView) -> list[Step]:
    """Imports a product of two tensors, or of a tensor and a constant."""
    return _binary(view, "multiply", as_scale_and_offset=lambda constant, first: (constant, None))


@rule("NEG")
def negative(view: OperatorView) -> list[Step]:
    """Imports a change of sign."""
    return [Step("rescaling", {"scale": -1.0}, suffix="_linear"), *view.range_activation()]


@rule("GELU")
def gelu(view: OperatorView) -> list[Step]:
    """Imports a Gaussian error linear unit; the form with tanh is exact for `approximate`."""
    if view.options.approximate:
        return [Step("tensor_function", {"function": "gelu_tanh", "constants": []})]
    return [Step("activation", {"activation": "gelu"})]


@rule("MAXIMUM")
def maximum(view: OperatorView) -> list[Step]:
    """Imports the maximum of two tensors, or of a tensor and one constant value."""
    largest = float(np.finfo(np.float32).max)
    return _limit(view, "maximum", neutral=-np.inf, bounds=lambda value: (value, largest))


@rule("MINIMUM")
def minimum(view: OperatorView) -> list[Step]:
    """Imports the minimum of two tensors, or of a tensor and one constant value."""
    smallest = float(np.finfo(np.float32).min)
    return _limit(view, "minimum", neutral=np.inf, bounds=lambda value: (smallest, value))


def _limit(
    view: OperatorView,
    kind: str,
    *,
    neutral: float,
    bounds: Callable[[float], tuple[float, float]],
) -> list[Step]:
    """Imports a limit; a constant `neutral` is none: PyTorch's softmax holds one."""
    slots = [slot for slot in (0, 1) if view.is_constant(slot)]
    if not slots:
        return [Step(kind)]
    stored = view.input(slots[0]).data
    if stored is not None and stored.size == 1 and stored.ravel()[0] == neutral:
        return []
    constant = view.floats(slots[0])
    if constant.size != 1:
        raise ValueError(f"its constant has {constant.size} values; only one is supported")
    low, high = bounds(float(constant.ravel()[0]))
    return [Step("clip", {"minimum": low, "maximum": high})]


def _binary(
    view: OperatorView,
    kind: str,
    *,
    as_scale_and_offset: Callable[[np.ndarray, bool], _ScaleAndOffset],
) -> list[Step]:
    """Imports an operator with two inputs, of which one may be constant.

    Args:
        view: the operator.
        kind: kind of the layer where no input is constant.
        as_scale_and_offset: the constant, and whether it is the first input -> (scale, offset)
            that are applied to the other input.
    """
    constants = [slot for slot in (0, 1) if view.is_constant(slot)]
    if len(constants) == 2:
        raise ValueError("both of its inputs are constant")
    if not constants:
        return [Step(kind, suffix="_linear"), *_activation(view)]
    constant = view.floats(constants[0])
    while constant.ndim and constant.shape[0] == 1:  # leading ones only change the rank
        constant = constant[0]
    scale, offset = as_scale_and_offset(constant, constants[0] == 0)
    return [*_scale_and_offset(view, scale, offset=offset), *_activation(view)]


def _activation(view: OperatorView) -> list[Step]:
    """Returns the fused activation, or the one of the output's range.

    A sum or product of values that are never negative needs no ReLU for its range; their
    difference may be negative.
    """
    needs_none = view.operator.kind != "SUB" and all(view.never_negative(s) for s in (0, 1))
    return view.fused_activation() if needs_none else view.activation()


def _scale_and_offset(
    view: OperatorView, scale: _Constant | None, *, offset: _Constant | None
) -> list[Step]:
    """Returns layers for scale * x + offset; each is None, one value, per channel, or any shape."""
    given = [value for value in (scale, offset) if value is not None]
    if all(value.size == 1 for value in given):
        settings: dict = {
            "scale": 1.0 if scale is None else float(scale.reshape(-1)[0]),
            "offset": 0.0 if offset is None else float(offset.reshape(-1)[0]),
        }
        return [Step("rescaling", settings, suffix="_linear", note="by a constant")]
    channels = view.output.shape[-1]
    data = view.input(next(slot for slot in (0, 1) if not view.is_constant(slot)))
    same = len(view.output.shape) == 4 and data.shape == view.output.shape
    if same and all(v.shape in ((), (1,), (channels,)) for v in given):
        return [_per_channel(channels, scale, offset=offset)]
    steps = []
    for operation, value in (("multiply", scale), ("add", offset)):
        if value is not None:
            settings = {"operation": operation, "shape": value.shape}
            arrays = {"constant": np.asarray(value)}
            steps.append(
                Step("elementwise_constant", settings, weights=arrays, suffix=f"_{operation}")
            )
    return steps


def _per_channel(channels: int, scale: _Constant | None, *, offset: _Constant | None) -> Step:
    """Returns the 1x1 depthwise convolution of one scale and one offset per channel."""
    scale = np.broadcast_to(np.float32(1) if scale is None else scale, (channels,))
    arrays = {"depthwise_kernel": np.array(scale, np.float32).reshape(1, 1, channels, 1)}
    if offset is not None:
        arrays["bias"] = np.array(np.broadcast_to(offset, (channels,)), np.float32)
    settings = {"kernel_size": (1, 1), "use_bias": offset is not None}
    return Step("depthwise_conv2d", settings, weights=arrays, suffix="_linear", note=PER_CHANNEL)


@rule("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "ELU", "TANH", "LOGISTIC", "HARD_SWISH")
def activation(view: OperatorView) -> list[Step]:
    """Imports an activation that is a separate operator."""
    return activation_steps(view.operator.kind)


@rule("LEAKY_RELU")
def leaky_relu(view: OperatorView) -> list[Step]:
    """Imports a ReLU with one slope for negative values."""
    return [Step("leaky_relu", {"alpha": float(view.options.alpha)})]


@rule("PRELU")
def prelu(view: OperatorView) -> list[Step]:
    """Imports a ReLU with trained slopes for negative values."""
    alpha = view.floats(1)
    rank = len(view.input(0).shape) - 1
    alpha = alpha.reshape((1,) * (rank - alpha.ndim) + alpha.shape)
    if alpha.ndim == rank + 1 and alpha.shape[0] == 1:
        alpha = alpha[0]
    shape = view.input(0).shape[1:]
    shared = [axis + 1 for axis, size in enumerate(alpha.shape) if size == 1 and shape[axis] != 1]
    settings = {"shared_axes": shared or None}
    return [Step("prelu", settings, weights={"alpha": alpha})]


@rule("SOFTMAX")
def softmax(view: OperatorView) -> list[Step]:
    """Imports a softmax over the last axis; a `beta` other than 1 becomes a scale before it."""
    steps = [Step("softmax", {"axis": -1})]
    beta = float(view.options.beta)
    if beta != 1.0:
        steps.insert(0, Step("rescaling", {"scale": beta}, suffix="_beta"))
    return steps


@rule("QUANTIZE")
def quantize(view: OperatorView) -> list[Step]:
    """Imports a change of range: values are unchanged unless the new range has no negative ones."""
    source, target = view.input(0), view.output
    if target.quantization is None or _integer_steps(source) == _integer_steps(target):
        return []
    return view.cut_by_range() or [Step("identity", note="new range")]


def _integer_steps(tensor: Tensor) -> tuple[float, int, bool] | None:
    """Returns the scale, the zero point as for int8, and whether it is wider than 8 bits.

    None for float tensors.
    """
    if tensor.quantization is None or tensor.is_float:
        return None
    shift = {"UINT8": 128}.get(tensor.type_name, 0)
    wide = tensor.type_name not in ("UINT8", "INT8")
    quantization = tensor.quantization
    return float(quantization.scale[0]), int(quantization.zero_point[0]) - shift, wide


@rule("DEQUANTIZE")
def dequantize(view: OperatorView) -> list[Step]:
    """Returns no layer: all values are float in the network."""
    return []


@rule("CAST")
def cast(view: OperatorView) -> list[Step]:
    """Imports a cast to an integer type; a cast to float needs no layer."""
    if view.output.is_float:
        return []
    if view.output.dtype is None:
        raise ValueError(f"it casts to {view.output.type_name}, which is not supported")
    return [Step("cast", {"target": view.output.dtype.name})]

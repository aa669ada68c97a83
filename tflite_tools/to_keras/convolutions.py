"""Import rules for convolutions and dense layers.

TFLite kernels are [out, height, width, in] (depthwise [1, height, width, in * multiplier]).
SAME padding is that of TensorFlow, also for odd sizes and strides.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import Operator
from tflite_tools.flatbuffer.operators import traits
from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, Step

_SAME, _VALID = schema.Padding.SAME, schema.Padding.VALID
# Operators allowed between the convolution and BATCH_TO_SPACE_ND: they work on single values.
_ELEMENTWISE = {"ADD", "SUB", "MUL", "RELU", "RELU6", "LEAKY_RELU", "PRELU", "HARD_SWISH"}


@dataclasses.dataclass(frozen=True)
class _Window:
    """Dilation and padding of a convolution.

    Attributes:
        dilation: (height, width).
        padding: "same" or "valid".
        zeros: ((top, bottom), (left, right)) zeros to add around the input first, or None.
    """

    dilation: tuple[int, int]
    padding: str
    zeros: tuple | None = None

    def steps(self) -> list[Step]:
        """Returns the padding layer, if one is needed."""
        if self.zeros is None:
            return []
        return [Step("zero_padding2d", {"padding": self.zeros}, suffix="_pad")]

    def settings(self, kernel: Sequence[int], strides: tuple[int, int]) -> dict[str, Any]:
        """Returns the arguments that all convolution layers have."""
        return {
            "kernel_size": tuple(int(size) for size in kernel),
            "strides": strides,
            "padding": self.padding,
            "dilation_rate": self.dilation,
        }


@rule("CONV_2D")
def conv2d(view: OperatorView) -> list[Step]:
    """Imports a convolution, grouped where the kernel has fewer channels than the input."""
    weights = view.floats(1)
    _need(weights.ndim == 4, f"its kernel has shape {list(weights.shape)}, not 4 dimensions")
    filters, *kernel, depth = weights.shape
    channels = view.input(0).shape[-1]
    _need(
        depth > 0 and channels % depth == 0,
        f"its kernel takes {depth} channels, its input has {channels}",
    )
    window = _window(view, kernel)
    settings = window.settings(kernel, _strides(view)) | {
        "filters": filters,
        "groups": channels // depth,
    }
    arrays = {"kernel": weights.transpose(1, 2, 3, 0)}
    return window.steps() + _with_bias(
        view, "conv2d", settings=settings, arrays=arrays, filters=filters
    )


@rule("DEPTHWISE_CONV_2D")
def depthwise_conv2d(view: OperatorView) -> list[Step]:
    """Imports a depthwise convolution."""
    weights = view.floats(1)
    _need(
        weights.ndim == 4 and weights.shape[0] == 1,
        f"its kernel has shape {list(weights.shape)}, not [1, height, width, channels]",
    )
    _, *kernel, filters = weights.shape
    channels = view.input(0).shape[-1]
    _need(
        channels > 0 and filters % channels == 0,
        f"its kernel gives {filters} channels, its input has {channels}",
    )
    multiplier = filters // channels  # the option of that name is wrong in some files
    window, strides = _window(view, kernel), _strides(view)
    _need(max(window.dilation) == 1 or max(strides) == 1, "it has both a stride and a dilation")
    settings = window.settings(kernel, strides) | {"depth_multiplier": multiplier}
    arrays = {"depthwise_kernel": weights[0].reshape(*kernel, channels, multiplier)}
    return window.steps() + _with_bias(
        view, "depthwise_conv2d", settings=settings, arrays=arrays, filters=filters
    )


@rule("TRANSPOSE_CONV")
def transpose_conv(view: OperatorView) -> list[Step]:
    """Imports a transpose convolution with the file's output size."""
    slots, same = traits(view.operator.kind).slots, view.options.padding == _SAME
    return transposed(view, slots=slots, strides=_strides(view), same=same)


def transposed(
    view: OperatorView, *, slots: tuple[int, int, int], strides: tuple[int, int], same: bool
) -> list[Step]:
    """Returns the layers of a transpose convolution.

    Args:
        view: of the operator.
        slots: of data, kernel [out, height, width, in] and bias.
        strides: (height, width).
        same: whether its padding is SAME.

    Raises:
        ValueError: the kernel or the output size does not fit.
    """
    data_slot, weights_slot, bias_slot = slots
    weights = view.floats(weights_slot)
    _need(weights.ndim == 4, f"its kernel has shape {list(weights.shape)}, not 4 dimensions")
    filters, *kernel, _ = weights.shape
    paddings = [
        _output_padding(size, out, kernel=taps, stride=stride, same=same)
        for size, out, taps, stride in zip(
            view.input(data_slot).shape[1:3], view.output.shape[1:3], kernel, strides, strict=True
        )
    ]
    settings = {
        "filters": filters,
        "kernel_size": tuple(kernel),
        "strides": strides,
        "padding": "same" if same else "valid",
        "output_padding": None if None in paddings else tuple(paddings),
    }
    if None in paddings and paddings != [None, None]:
        raise ValueError("its output size differs from Keras' along one axis only")
    arrays = {"kernel": weights.transpose(1, 2, 0, 3)}
    return _with_bias(
        view,
        "conv2d_transpose",
        settings=settings,
        arrays=arrays,
        filters=filters,
        bias_slot=bias_slot,
    )


def _output_padding(size: int, out: int, *, kernel: int, stride: int, same: bool) -> int | None:
    """Returns Keras' `output_padding` for an output size; None where it is the default size."""
    if out == (size * stride if same else size * stride + max(kernel - stride, 0)):
        return None
    padding = out - ((size - 1) * stride + kernel - (2 * (kernel // 2) if same else 0))
    _need(0 <= padding < stride, f"its output size {out} does not fit its input size {size}")
    return padding


@rule("FULLY_CONNECTED")
def fully_connected(view: OperatorView) -> list[Step]:
    """Imports a dense layer, with a reshape where it flattens its input."""
    _need(view.options.weightsFormat == 0, "its weights are shuffled")
    if not view.is_constant(1):
        _need(not view.has_input(2), "its weights are computed, and it has a bias")
        settings = {"function": "matrix_product_second_transposed", "constants": []}
        return [Step("tensor_function", settings, suffix="_linear"), *view.fused_activation()]
    weights = view.floats(1)
    _need(weights.ndim == 2, f"its weights have shape {list(weights.shape)}, not 2 dimensions")
    units, depth = weights.shape
    shape = view.input(0).shape
    steps = []
    if view.operator.outputs[0] in view.batchless and view.operator.inputs[0] not in view.batchless:
        # Rows of all positions; the network keeps the batch of 1 in front of them.
        if len(shape) > 3:
            rows = int(np.prod(shape[1:-1]))
            steps.append(Step("reshape", {"target_shape": (rows, depth)}, suffix="_rows"))
    elif len(shape) != 2 and not (view.options.keepNumDims and shape[-1] == depth):
        _need(
            int(np.prod(shape[1:])) == depth,
            f"it joins the batch with other dimensions (input {list(shape)}, {depth} weights)",
        )
        steps.append(Step("reshape", {"target_shape": (depth,)}, suffix="_flat"))
    return steps + _with_bias(
        view, "dense", settings={"units": units}, arrays={"kernel": weights.T}, filters=units
    )


def _with_bias(
    view: OperatorView,
    kind: str,
    *,
    settings: dict[str, Any],
    arrays: dict[str, np.ndarray],
    filters: int,
    bias_slot: int | None = None,
) -> list[Step]:
    """Returns the layer with its bias, if there is one, and its activation."""
    if bias_slot is None:
        bias_slot = traits(view.operator.kind).slots[2]
    use_bias = view.has_input(bias_slot)
    if use_bias:
        arrays = arrays | {"bias": view.floats(bias_slot).reshape(-1)}
        _need(len(arrays["bias"]) == filters, f"its bias does not have {filters} values")
    arrays = {name: np.ascontiguousarray(value, np.float32) for name, value in arrays.items()}
    kernel = "x".join(str(size) for size in settings.get("kernel_size", ()))
    note = kernel + (f" dilated by {rate}" if (rate := _rate(settings)) != (1, 1) else "")
    step = Step(
        kind, settings | {"use_bias": use_bias}, weights=arrays, suffix="_linear", note=note
    )
    # The options of old transpose convolutions have no field for a fused activation.
    fuses = hasattr(view.operator.options, "fusedActivationFunction")
    activation = view.activation() if fuses else []
    return [step, *activation]


def _rate(settings: dict[str, Any]) -> tuple[int, int]:
    return settings.get("dilation_rate", (1, 1))


def _strides(view: OperatorView) -> tuple[int, int]:
    strides = (view.options.strideH, view.options.strideW)
    _need(min(strides) >= 1, f"its strides are {strides}")
    return strides


def _window(view: OperatorView, kernel: Sequence[int]) -> _Window:
    dilation = (view.options.dilationHFactor or 1, view.options.dilationWFactor or 1)
    same = view.options.padding == _SAME
    _need(same or view.options.padding == _VALID, f"its padding is {view.options.padding}")
    batched = view.graph.producer(view.operator.inputs[0])
    if batched is None or batched.kind != "SPACE_TO_BATCH_ND":
        return _Window(dilation, "same" if same else "valid")
    _need(
        dilation == (1, 1) and _strides(view) == (1, 1),
        "it has a stride or a dilation after SPACE_TO_BATCH_ND",
    )
    return _batched_window(view, batched, kernel=kernel, same=same)


def _batched_window(
    view: OperatorView, before: Operator, *, kernel: Sequence[int], same: bool
) -> _Window:
    """Returns the window of SPACE_TO_BATCH_ND -> convolution -> BATCH_TO_SPACE_ND.

    The three are one dilated convolution. The zeros around its input are those of
    SPACE_TO_BATCH_ND, plus those of the convolution itself times the rate, minus the crops of
    BATCH_TO_SPACE_ND.
    """
    outer = OperatorView(view.graph, before)
    after = OperatorView(view.graph, _batch_to_space(view))
    blocks = outer.integers(1)
    _need(
        len(blocks) == 2 and blocks == after.integers(1),
        "the block sizes before and after it differ",
    )
    rate = (blocks[0], blocks[1])
    paddings = np.reshape(outer.integers(2), (2, 2))
    crops = np.reshape(after.integers(2), (2, 2))
    spread = (np.asarray(kernel) - 1) * rate
    zeros = paddings - crops
    if same:
        first = (np.asarray(kernel) - 1) // 2 * rate
        zeros = zeros + np.stack([first, spread - first], axis=1)
    _need(zeros.min() >= 0, "its crops are larger than its paddings")
    if not zeros.any():
        return _Window(rate, "valid")
    if np.array_equal(zeros[:, 0], spread // 2) and np.array_equal(zeros.sum(1), spread):
        return _Window(rate, "same")
    return _Window(rate, "valid", zeros=tuple(tuple(int(n) for n in pair) for pair in zeros))


def _batch_to_space(view: OperatorView) -> Operator:
    tensor = view.operator.outputs[0]
    for _ in range(8):
        consumers = view.graph.consumers(tensor)
        if len(consumers) != 1 or tensor in view.graph.outputs:
            break
        if consumers[0].kind == "BATCH_TO_SPACE_ND":
            return consumers[0]
        if consumers[0].kind not in _ELEMENTWISE:
            break
        tensor = consumers[0].outputs[0]
    raise ValueError("no BATCH_TO_SPACE_ND follows the SPACE_TO_BATCH_ND before it")


@rule("SPACE_TO_BATCH_ND")
def space_to_batch(view: OperatorView) -> list[Step]:
    """Returns no layer: the convolution after it imports it as its dilation."""
    kinds = {operator.kind for operator in view.graph.consumers(view.operator.outputs[0])}
    _need(
        bool(kinds) and kinds <= {"CONV_2D", "DEPTHWISE_CONV_2D"},
        f"only a convolution may read it, not {', '.join(sorted(kinds)) or 'nothing'}",
    )
    return []


@rule("BATCH_TO_SPACE_ND")
def batch_to_space(view: OperatorView) -> list[Step]:
    """Returns no layer, see `space_to_batch`."""
    tensor = view.operator.inputs[0]
    for _ in range(8):
        producer = view.graph.producer(tensor)
        if producer is None:
            break
        if producer.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            before = view.graph.producer(producer.inputs[0])
            if before is not None and before.kind == "SPACE_TO_BATCH_ND":
                return []
            break
        tensor = producer.inputs[0]
    raise ValueError("no SPACE_TO_BATCH_ND with a convolution comes before it")


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)

"""Moves the normalization of pixels into a file, so that the bytes of a camera stay its input.

The network of a framework takes real = (pixel - mean) / std with a mean and a divisor per channel
(ImageNet's, for example). An integer input has one scale for all channels, so such pixels would
have to be rounded to other values first. Here the file takes x = (pixel - 128) / 128 instead, and
computes real = a * x + b itself:

    a = 128 / std,   b = (128 - mean) / std

in the weights and the bias of the first convolution where that is exact, which it is without zero
padding; else in a 1x1 depthwise convolution before it.
"""

import dataclasses

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.editor import Editor

_STEPS = ("MUL", "ADD", "SUB", "DIV")
_LOWEST_PIXEL_STD = 8.0
"""A network that divides its input by at least this takes pixels, not normalized values."""


@dataclasses.dataclass(frozen=True)
class OwnNormalization:
    """The element-wise constants that a network applies to its input: scale * input + offset.

    Attributes:
        scale: float64 [channels].
        offset: float64 [channels].
        end: index of the tensor that they give.
        operators: how many.
    """

    scale: np.ndarray
    offset: np.ndarray
    end: int
    operators: int

    @property
    def takes_pixels(self) -> bool:
        """Whether they turn pixels of 0 to 255 into small values, or take a mean pixel off.

        The converter multiplies the factor into the first weights where only they read it.
        """
        small = (self.scale <= 1 / _LOWEST_PIXEL_STD).all()
        return bool(small or (self.offset / self.scale <= -_LOWEST_PIXEL_STD).all())

    def combined(self, before: Preprocessing) -> Preprocessing:
        """Returns one normalization that is another followed by this one.

        Args:
            before: what is done to pixels before they are fed.
        """
        mean, std = np.array(before.mean), np.array(before.std)
        std, mean = std / self.scale, mean - std * self.offset / self.scale
        return Preprocessing(_rounded(mean), _rounded(std))

    def text(self) -> str:
        """Returns "x * 0.0078431 - 1", of the first channel."""
        return f"x * {self.scale[0]:.5g} {self.offset[0]:+.5g}"


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    """Returns numbers without the rounding of float32: 127.5 and not 127.49999962747097."""
    return tuple(float(f"{value:.7g}") + 0.0 for value in values)


def own_normalization(editor: Editor) -> OwnNormalization | None:
    """Returns the constants that a file multiplies with and adds to its input; None if none.

    Args:
        editor: of the file.
    """
    index = int(editor.graph.inputs[0])
    channels = int(editor.tensor(index).shape[-1])
    scale, offset, count = np.ones(channels), np.zeros(channels), 0
    outputs = {int(output) for output in editor.graph.outputs}
    while index not in outputs:
        readers = [op for op in editor.graph.operators if index in map(int, op.inputs)]
        if len(readers) != 1:
            break
        step = _step(editor, readers[0], index=index, channels=channels)
        if step is None:
            break
        scale, offset = scale * step[0], offset * step[0] + step[1]
        index, count = int(readers[0].outputs[0]), count + 1
    if not count or (scale <= 0).any():
        return None
    return OwnNormalization(scale, offset, end=index, operators=count)


def _step(
    editor: Editor, operator: schema.OperatorT, *, index: int, channels: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns (factor, addend) of one element-wise operator with a constant; None of any other."""
    kind = editor.kind(operator)
    fused: int = getattr(operator.builtinOptions, "fusedActivationFunction", None) or 0
    if kind not in _STEPS or fused:
        return None
    first, second = (int(i) for i in operator.inputs)
    if first != index and kind in ("SUB", "DIV"):
        return None
    constant = editor.constant(second if first == index else first)
    if constant is None or constant.dtype != np.float32:
        return None
    if constant.size not in (1, channels) or constant.size != (constant.shape or (1,))[-1]:
        return None
    value = np.broadcast_to(constant.reshape(-1).astype(np.float64), channels)
    if kind == "DIV":
        value = 1 / value
    zeros, ones = np.zeros(channels), np.ones(channels)
    return (value, zeros) if kind in ("MUL", "DIV") else (ones, -value if kind == "SUB" else value)


def remove_own_normalization(editor: Editor, own: OwnNormalization) -> None:
    """Removes these operators; the caller's normalization must include them from then on.

    Args:
        editor: of the file, changed in place.
        own: of the same file.
    """
    start = int(editor.graph.inputs[0])
    for operator in editor.graph.operators:
        operator.inputs = [start if int(i) == own.end else int(i) for i in operator.inputs]
    editor.drop_unread_operators()


def takes_camera_bytes(preprocessing: Preprocessing) -> bool:
    """Returns whether one scale and zero point for all channels can stand for a normalization.

    Args:
        preprocessing: of the network.
    """
    alike = len(set(preprocessing.mean)) == len(set(preprocessing.std)) == 1
    return alike and 0 <= preprocessing.mean[0] <= 255


def fold_normalization(editor: Editor, preprocessing: Preprocessing) -> str:
    """Makes the file take (pixel - 128) / 128 and compute the network's normalization itself.

    Args:
        editor: of the file, changed in place; its input is float32.
        preprocessing: of the network.

    Returns:
        Where it is computed, in words.
    """
    target = Preprocessing.of(preprocessing.channels)
    std = np.array(preprocessing.std)
    factor = np.array(target.std) / std
    addend = (np.array(target.mean) - np.array(preprocessing.mean)) / std
    index = int(editor.graph.inputs[0])
    readers = [op for op in editor.graph.operators if index in map(int, op.inputs)]
    if len(readers) == 1 and _takes_it_exactly(editor, readers[0], channels=len(factor)):
        _fold(editor, readers[0], factor=factor, addend=addend)
        return "in the weights of the first convolution"
    _insert(editor, readers, factor=factor, addend=addend)
    return "in a 1x1 depthwise convolution, exact at padded borders too"


def _takes_it_exactly(editor: Editor, operator: schema.OperatorT, *, channels: int) -> bool:
    if editor.kind(operator) != "CONV_2D":
        return False
    weights = editor.constant(int(operator.inputs[1]))
    if weights is None or weights.dtype != np.float32 or weights.shape[3] != channels:
        return False
    options = operator.builtinOptions
    if options.padding == schema.Padding.VALID:
        return True
    size = editor.tensor(int(operator.inputs[0])).shape[1:3]
    strides = (options.strideH, options.strideW)
    dilations = (options.dilationHFactor, options.dilationWFactor)
    spans = [(k - 1) * d + 1 for k, d in zip(weights.shape[1:3], dilations, strict=True)]
    return all(
        (-(-int(length) // stride) - 1) * stride + span <= int(length)
        for length, stride, span in zip(size, strides, spans, strict=True)
    )


def _fold(
    editor: Editor, operator: schema.OperatorT, *, factor: np.ndarray, addend: np.ndarray
) -> None:
    weights = np.asarray(editor.constant(int(operator.inputs[1])), np.float64)
    bias = (weights * addend).sum(axis=(1, 2, 3))
    editor.replace_constant(operator, 1, values=weights * factor)
    old = int(operator.inputs[2]) if len(operator.inputs) > 2 else -1
    if old >= 0:
        editor.replace_constant(operator, 2, values=bias + np.asarray(editor.constant(old)))
        return
    added = editor.add_constant("bias", bias.astype("<f4"))
    operator.inputs = [*(int(index) for index in operator.inputs[:2]), added]


def _insert(
    editor: Editor,
    readers: list[schema.OperatorT],
    *,
    factor: np.ndarray,
    addend: np.ndarray,
) -> None:
    index = int(editor.graph.inputs[0])
    shape = [int(size) for size in editor.tensor(index).shape]
    new = editor.add_tensor("normalized", shape, kind=schema.TensorType.FLOAT32)
    for operator in readers:
        operator.inputs = [new if int(i) == index else int(i) for i in operator.inputs]
    weights = editor.add_constant("normalization/factor", factor.astype("<f4")[None, None, None])
    bias = editor.add_constant("normalization/addend", addend.astype("<f4"))
    options = schema.DepthwiseConv2DOptionsT()
    options.padding = schema.Padding.VALID
    options.strideH = options.strideW = options.depthMultiplier = 1
    options.dilationHFactor = options.dilationWFactor = 1
    operator = editor.new_operator(
        "DEPTHWISE_CONV_2D", [index, weights, bias], outputs=[new], version=1, options=options
    )
    editor.graph.operators = [operator, *editor.graph.operators]

"""What the output of a segmentation file is: scores of classes, one score, or a class map.

| stored as | read as |
|---|---|
| [1, h, w, classes], or [1, classes, h, w] behind a TRANSPOSE | scores of classes |
| [1, h, w, 1], or [1, h, w] of floats or with a scale | one score: foreground above a threshold |
| [1, n, classes], [1, n, 1] or [1, n] with n = h * w of the input or a fraction | the same, flat |
| [1, h, w], [h, w], [1, h, w, 1] of integers without a scale | a class map |

A float tensor of three dimensions is never a class map: boxes of a detector have that form, too. Of
several outputs the first that is one of these is read, or the one that the caller names.
"""

import dataclasses
import pathlib

from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.flatbuffer.layout import channels_first_output

_COARSEST = 32
"""Largest factor between the input's size and that of a flat output."""
_FEWEST_PIXELS = 64
"""Of a flat output: fewer are the scores of a classifier."""
_KEEP_PROBABILITIES = (
    *("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE"),
    *("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
)


@dataclasses.dataclass(frozen=True)
class OutputForm:
    """How an output is read.

    Attributes:
        shape: [1, h, w, channels] of scores; the file's own of a class map.
        classes_output: True for a class map.
        num_classes: channels of the scores, 2 for one score; None for a class map.
        probabilities: whether the graph ends in a softmax or sigmoid.
        position: of the output in the file's list of outputs.
        threshold: value, in the file's own units, above which a pixel of one score is foreground
            (class 1): 0.5 of a probability, 0 of a logit; None for all others.
        channels_first: whether the file stores `shape` as [1, channels, h, w].
    """

    shape: tuple[int, ...]
    classes_output: bool
    num_classes: int | None
    probabilities: bool
    position: int = 0
    threshold: float | None = None
    channels_first: bool = False


def output_form(
    path: pathlib.Path, graph: Graph, *, size: tuple[int, int], output: str = ""
) -> OutputForm:
    """Chooses the output of a file that is a segmentation, and says how it is read.

    Args:
        path: the file, for messages.
        graph: of the file.
        size: (height, width) of its input.
        output: name or number (from 0) of the output to read; "" for the first that can be read.

    Raises:
        ValueError: no output is a segmentation, or not the one that is asked for.
    """
    positions = [_position(path, graph, output)] if output else range(len(graph.outputs))
    for position in positions:
        if found := form_of_output(graph, position, size=size):
            return found
    outputs = [graph.tensors[graph.outputs[position]] for position in positions]
    shown = ", ".join(f"{o.name!r}: {o.type_name} {list(o.shape)}" for o in outputs[:8])
    raise ValueError(
        f"{path}: expected scores [1, h, w, classes] or a class map [1, h, w], got {shown}"
    )


def _position(path: pathlib.Path, graph: Graph, output: str) -> int:
    names = [graph.tensors[index].name for index in graph.outputs]
    if names.count(output) == 1:
        return names.index(output)
    if output.isdecimal() and int(output) < len(names):
        return int(output)
    known = ", ".join(f"{number} {name!r}" for number, name in enumerate(names))
    raise ValueError(f"{path}: expected the name or number of an output ({known}), got {output!r}")


def form_of_output(graph: Graph, position: int, *, size: tuple[int, int]) -> OutputForm | None:
    """Says how one output is read; None if it is no segmentation.

    Args:
        graph: of the file.
        position: of the output in the file's list.
        size: (height, width) of the input.
    """
    output = graph.tensors[graph.outputs[position]]
    probabilities = _ends_in_probabilities(graph, output.index)
    channels_first = _is_channels_first(graph, position, size=size)
    if channels_first:
        batch, channels, height, width = output.shape
        output = dataclasses.replace(output, shape=(batch, height, width, channels))
    shape = _image_shape(output, size)
    if shape is None and output.dtype is not None:
        squeezed = [length for length in output.shape if length != 1]
        if len(squeezed) == 2 and not output.is_float and output.quantization is None:
            return OutputForm(
                output.shape, True, num_classes=None, probabilities=False, position=position
            )
    if shape is None:
        return None
    if shape[3] > 1:
        return OutputForm(
            shape,
            False,
            num_classes=shape[3],
            probabilities=probabilities,
            position=position,
            channels_first=channels_first,
        )
    return OutputForm(
        shape,
        False,
        num_classes=2,
        probabilities=probabilities,
        position=position,
        threshold=_stored(0.5 if probabilities else 0.0, output),
        channels_first=channels_first,
    )


def _is_channels_first(graph: Graph, position: int, *, size: tuple[int, int]) -> bool:
    """Whether an output is [1, channels, h, w]: by its TRANSPOSE, or since only h, w fit so."""
    shape = graph.tensors[graph.outputs[position]].shape
    if len(shape) != 4:
        return False
    fits = _same_aspect((shape[2], shape[3]), size)
    return fits and (
        channels_first_output(graph, position) or not _same_aspect((shape[1], shape[2]), size)
    )


def _image_shape(output: Tensor, size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Returns the shape [1, h, w, channels] of scores; None for what holds none."""
    shape = output.shape
    scores = output.is_float or output.quantization is not None
    if not shape or shape[0] != 1 or output.dtype is None:
        return None
    if len(shape) == 4 and shape[1:3] == (1, 1) != size:
        return None  # boxes or classes of the whole image
    if len(shape) == 4 and (shape[3] > 1 or scores):
        return (1, shape[1], shape[2], shape[3])
    if not scores:
        return None
    if len(shape) == 3 and _same_aspect((shape[1], shape[2]), size):
        return (1, shape[1], shape[2], 1)
    if len(shape) in (2, 3) and (found := _flat_size(shape[1], size)):
        return (1, *found, shape[2] if len(shape) == 3 else 1)
    return None


def _same_aspect(found: tuple[int, int], size: tuple[int, int]) -> bool:
    """Whether a size is that of the input, or a whole fraction of it."""
    factors = {whole / part for whole, part in zip(size, found, strict=True) if part}
    return len(factors) == 1 and factors <= set(range(1, _COARSEST + 1))


def _flat_size(count: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """Returns the (height, width) whose pixels a flat output lists, row by row."""
    height, width = size
    if count < _FEWEST_PIXELS:
        return None
    for factor in range(1, _COARSEST + 1):
        whole = height % factor == 0 and width % factor == 0
        if whole and count == (height // factor) * (width // factor):
            return height // factor, width // factor
    return None


def _stored(value: float, output: Tensor) -> float:
    """Returns a real value in the units that the file stores."""
    if output.is_float or output.quantization is None:
        return value
    return value / float(output.quantization.scale[0]) + float(output.quantization.zero_point[0])


def _ends_in_probabilities(graph: Graph, index: int) -> bool:
    last = graph.producer(index)
    while last is not None and last.kind in _KEEP_PROBABILITIES:
        last = graph.producer(last.inputs[0])
    return last is not None and last.kind in ("SOFTMAX", "LOGISTIC")

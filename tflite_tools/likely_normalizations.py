"""How the pixels of a file are probably normalized, where nothing on record says it."""

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.input_contract import quantized_preprocessing

_IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_FACTOR = 16.0
"""A graph that divides its input by more than this takes pixels, not normalized values."""


def likely_normalizations(channels: int) -> tuple[Preprocessing, ...]:
    """Returns [-1, 1], raw pixels, [0, 1] and, for three channels, ImageNet's mean and deviation.

    Args:
        channels: of the input.
    """
    uniform = ((128.0, 128.0), (0.0, 1.0), (0.0, 255.0))
    found = tuple(Preprocessing((mean,) * channels, (std,) * channels) for mean, std in uniform)
    return (*found, Preprocessing(*_IMAGENET)) if channels == 3 else found


def implied_normalization(graph: Graph, channels: int) -> Preprocessing | None:
    """Returns what the operators behind a float input imply, or None.

    A QUANTIZE has the range of the images that it was calibrated with; a graph that divides its
    input takes pixels.

    Args:
        graph: the file.
        channels: of its input.
    """
    followers = graph.consumers(graph.inputs[0])
    if not graph.tensors[graph.inputs[0]].is_float:
        return None
    if len(followers) == 1 and followers[0].kind == "QUANTIZE":
        return quantized_preprocessing(graph.tensors[followers[0].outputs[0]], channels)
    raw = Preprocessing((0.0,) * channels, (1.0,) * channels)
    return raw if normalizes_itself(graph) else None


def normalizes_itself(graph: Graph) -> bool:
    """Returns whether the graph begins with a normalization of pixels of its own.

    Args:
        graph: the file.
    """
    tensor, factor = graph.inputs[0], 1.0
    while len(followers := graph.consumers(tensor)) == 1:
        operator = followers[0]
        if operator.kind not in ("ADD", "SUB", "MUL", "DIV"):
            break
        constants = [graph.tensors[i] for i in operator.inputs if graph.tensors[i].data is not None]
        if len(constants) != 1:
            break
        value = float(np.abs(constants[0].dequantized()).mean())
        factor *= {"MUL": value, "DIV": 1 / value if value else 1.0}.get(operator.kind, 1.0)
        tensor = operator.outputs[0]
    return factor < 1 / _FACTOR

"""Files whose images are stored channel by channel, [1, channels, height, width] (NCHW).

PyTorch and ONNX networks have this order. Their converters put a TRANSPOSE behind the input and one
in front of the output; between them the network is [1, height, width, channels], like others.
"""

import numpy as np

from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.graph import Graph, Operator

TO_CHANNELS_LAST = (0, 2, 3, 1)
TO_CHANNELS_FIRST = (0, 3, 1, 2)
IMAGE_CHANNELS = (1, 3, 4)
"""Gray, RGB, RGB with a fourth channel."""


def channels_first_input(graph: Graph) -> bool:
    """Returns whether the input is an image [1, channels, height, width].

    It is one where a TRANSPOSE to the other order reads it, or where only the second dimension is
    a number of channels that images have.

    Args:
        graph: the file.
    """
    index = graph.inputs[0]
    shape = graph.tensors[index].shape
    if len(shape) != 4:
        return False
    readers = graph.consumers(index)
    if len(readers) == 1 and permutation(graph, readers[0]) == TO_CHANNELS_LAST:
        return True
    return shape[1] in IMAGE_CHANNELS and shape[3] not in IMAGE_CHANNELS and shape[2] > 4


def channels_first_output(graph: Graph, position: int = 0) -> bool:
    """Returns whether an output is [1, channels, height, width]: a TRANSPOSE gives it that order.

    Args:
        graph: the file.
        position: of the output.
    """
    producer = graph.producer(graph.outputs[position])
    return producer is not None and permutation(graph, producer) == TO_CHANNELS_FIRST


def permutation(graph: Graph, operator: Operator) -> tuple[int, ...] | None:
    """Returns the order of dimensions that a TRANSPOSE gives; None for other operators.

    Args:
        graph: the file.
        operator: one of its operators.
    """
    if operator.kind != "TRANSPOSE" or len(operator.inputs) != 2:
        return None
    order = graph.tensors[operator.inputs[1]].data
    return None if order is None else tuple(int(axis) for axis in np.ravel(order))


def without_outer_transposes(content: bytes, graph: Graph) -> bytes | None:
    """Returns the file with images [1, height, width, channels] at both ends.

    Args:
        content: the `.tflite`.
        graph: its graph.

    Returns:
        the edited file; None where no TRANSPOSE stands directly behind the input or in front of
        an output.
    """
    editor = Editor(content, name=str(graph.path))
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    readers = graph.consumers(inputs[0])
    if len(readers) == 1 and permutation(graph, readers[0]) == TO_CHANNELS_LAST:
        inputs[0] = readers[0].outputs[0]
    for position, index in enumerate(outputs):
        producer = graph.producer(index)
        if producer is not None and channels_first_output(graph, position):
            outputs[position] = producer.inputs[0]
    if (inputs, outputs) == (list(graph.inputs), list(graph.outputs)) or set(inputs) & set(outputs):
        return None
    removed = {position for position, op in enumerate(graph.operators) if inputs[0] in op.outputs}
    editor.graph.operators = [
        operator
        for position, operator in enumerate(editor.graph.operators)
        if position not in removed
    ]
    editor.graph.inputs, editor.graph.outputs = inputs, outputs
    editor.model.signatureDefs = None  # they name the old tensors
    editor.drop_unread_operators()
    return editor.to_bytes()

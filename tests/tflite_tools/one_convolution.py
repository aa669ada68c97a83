"""Files of one 1x1 convolution, whose masks are known by hand; no conversion is needed."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor


def write_brightest_channel(path, size=(24, 32), *, channels=3, factor=None, bias=(0.0,) * 4):
    """Writes a float32 file whose class is the channel with the largest value plus bias.

    Args:
        path: file to write.
        size: (height, width) of input and output.
        channels: of the input; one channel becomes class 0 if it is negative, else class 1.
        factor: of a MUL in front, as in a file that takes pixels; None for no MUL.
        bias: of each class.
    """
    editor = Editor()
    float32 = schema.TensorType.FLOAT32
    weights = np.array([[-1.0], [1.0]]) if channels == 1 else np.eye(channels)
    classes = len(weights)
    image = source = editor.add_tensor("image", (1, *size, channels), kind=float32)
    operators = []
    if factor is not None:
        constant = editor.add_constant("factor", np.array(factor, np.float32))
        image = editor.add_tensor("scaled", (1, *size, channels), kind=float32)
        options = schema.MulOptionsT()
        operators.append(
            editor.new_operator("MUL", [source, constant], outputs=[image], options=options)
        )
    kernel = editor.add_constant(
        "kernel", weights.astype(np.float32).reshape(classes, 1, 1, channels)
    )
    offset = editor.add_constant("offset", np.array(bias[:classes], np.float32))
    target = editor.add_tensor("logits", (1, *size, classes), kind=float32)
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = 1
    operators.append(
        editor.new_operator("CONV_2D", [image, kernel, offset], outputs=[target], options=options)
    )
    editor.graph.operators = operators
    editor.graph.inputs, editor.graph.outputs = [source], [target]
    path.write_bytes(editor.to_bytes())
    return path


def stripes(size=(24, 32)):
    """A photo of a red, a green and a blue stripe, and its mask."""
    height, width = size
    mask = np.repeat((np.arange(width) * 3 // width)[None], height, axis=0).astype(np.uint8)
    return (np.eye(3, dtype=np.uint8) * 200 + 20)[mask], mask

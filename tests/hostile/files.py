"""Hostile `.tflite` files, each small on the disk: built by hand or changed in one place."""

import itertools
import pathlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.pack import pack


def chain(path: pathlib.Path, operators: int, kind: str = "RELU") -> pathlib.Path:
    """A long file: as many operators, one after the other, on an image of 4 x 4."""
    editor = Editor()
    floats = schema.TensorType.FLOAT32
    names = (f"t{number}" for number in range(operators + 1))
    tensors = [editor.add_tensor(name, (1, 4, 4, 3), kind=floats) for name in names]
    for before, after in itertools.pairwise(tensors):
        editor.graph.operators.append(editor.new_operator(kind, [before], outputs=[after]))
    editor.graph.inputs, editor.graph.outputs = [tensors[0]], [tensors[-1]]
    path.write_bytes(pack(editor.model, 1 << 16))
    return path


def quantized(path: pathlib.Path, *, scale=0.5, zero_point=0, where="input") -> pathlib.Path:
    """One quantized convolution whose input, weights or output has an unusual quantization."""
    editor = Editor()
    kind = schema.TensorType.INT8
    given = {"input": (0.5, 0), "weights": (0.5, 0), "output": (0.5, 0), where: (scale, zero_point)}

    def quantization(name):
        found = schema.QuantizationParametersT()
        found.scale = np.array([given[name][0]], np.float32)
        found.zeroPoint = np.array([given[name][1]], np.int64)
        return found

    image = editor.add_tensor("image", (1, 4, 4, 3), kind=kind, quantization=quantization("input"))
    weights = editor.add_constant(
        "weights", np.ones((3, 1, 1, 3), np.int8), quantization=quantization("weights")
    )
    output = editor.add_tensor(
        "output", (1, 4, 4, 3), kind=kind, quantization=quantization("output")
    )
    options = schema.Conv2DOptionsT()
    options.strideH = options.strideW = 1
    options.dilationHFactor = options.dilationWFactor = 1
    inputs = [image, weights, -1]
    editor.graph.operators.append(
        editor.new_operator("CONV_2D", inputs, outputs=[output], options=options)
    )
    editor.graph.inputs, editor.graph.outputs = [image], [output]
    path.write_bytes(pack(editor.model, 1 << 12))
    return path


def sparse(path: pathlib.Path, size: int, beginning: bytes = b"\x1c\0\0\0TFL3") -> pathlib.Path:
    """A file of any size that takes no space on the disk."""
    with path.open("wb") as stream:
        stream.write(beginning)
        stream.truncate(size)
    return path

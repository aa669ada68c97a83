"""Writes the model for the processor's peak speed in the same runtime: one large 1x1 convolution.

A 1x1 convolution is a matrix product with ideal use of the cache; a network of depthwise
convolutions, resizes and additions does not reach its speed. The speed of other files is given
relative to it.
"""

import pathlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf import atomic_file
from tflite_tools.flatbuffer.editor import Editor, symmetric

SIDE = 32
CHANNELS = 512
"""32 * 32 * 512 * 512 = 0.27e9 multiply-adds: long enough for a clock and for two threads, short
enough to run undisturbed at times on a busy machine."""


def write_peak_model(path: pathlib.Path, integer: bool) -> None:
    """Writes a `.tflite` of one CONV_2D with input and output [1, 32, 32, 512].

    Args:
        path: file to write.
        integer: True for int8 with weights per channel, False for float32.
    """
    rng = np.random.default_rng(0)
    if integer:
        weights = rng.integers(-127, 128, (CHANNELS, 1, 1, CHANNELS), np.int8)
        bias = rng.integers(-1000, 1000, CHANNELS, np.int32)
    else:
        weights = rng.normal(0, 0.05, (CHANNELS, 1, 1, CHANNELS)).astype(np.float32)
        bias = rng.normal(0, 1, CHANNELS).astype(np.float32)
    atomic_file.write_bytes(path, _model(weights, bias, integer=integer))


def _model(weights: np.ndarray, bias: np.ndarray, *, integer: bool) -> bytes:
    editor = Editor()
    fine = np.full(CHANNELS, 1 / 2**14, np.float32)

    def scaled(scale: float | np.ndarray) -> schema.QuantizationParametersT | None:
        return symmetric(scale) if integer else None

    image = (1, SIDE, SIDE, CHANNELS)
    kind = schema.TensorType.INT8 if integer else schema.TensorType.FLOAT32
    source = editor.add_tensor("input", image, kind=kind, quantization=scaled(1 / 128))
    inputs = [
        source,
        editor.add_constant("weights", weights, quantization=scaled(fine)),
        editor.add_constant("bias", bias, quantization=scaled(fine / 128)),
    ]
    target = editor.add_tensor("output", image, kind=kind, quantization=scaled(1 / 512))
    options = schema.Conv2DOptionsT()
    options.strideW = options.strideH = 1
    editor.graph.operators = [
        editor.new_operator("CONV_2D", inputs, outputs=[target], options=options)
    ]
    editor.graph.inputs, editor.graph.outputs = [source], [target]
    return editor.to_bytes()

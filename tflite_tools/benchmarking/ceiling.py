"""What this processor reaches at best through the same runtime: one large 1x1 convolution.

A 1x1 convolution is a matrix product with everything in the cache's favour; no network of
depthwise convolutions, resizes and additions comes near it. Its speed is the scale that the
other files are read on.
"""

import pathlib

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf import atomic_file
from tflite_tools.graph import FILE_IDENTIFIER

SIDE = 32
CHANNELS = 512
"""32 * 32 * 512 * 512 = 0.27e9 multiply-adds: long enough for a clock and for two threads, short
enough to run undisturbed now and then on a busy machine."""
_INPUT, _WEIGHTS, _BIAS, _OUTPUT = range(4)


def write_ceiling(path: pathlib.Path, integer: bool) -> None:
    """Writes a `.tflite` of one CONV_2D, int8 (weights per channel) or float32.

    Its input is [1, 32, 32, 512], its output the same.
    """
    model = _model(integer)
    builder = flatbuffers.Builder(1 << 21)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    atomic_file.write_bytes(path, bytes(builder.Output()))


def _model(integer: bool) -> schema.ModelT:
    rng = np.random.default_rng(0)
    if integer:
        weights = rng.integers(-127, 128, (CHANNELS, 1, 1, CHANNELS), np.int8)
        bias = rng.integers(-1000, 1000, CHANNELS, np.int32)
    else:
        weights = rng.normal(0, 0.05, (CHANNELS, 1, 1, CHANNELS)).astype(np.float32)
        bias = rng.normal(0, 1, CHANNELS).astype(np.float32)
    image = (1, SIDE, SIDE, CHANNELS)
    kind = schema.TensorType.INT8 if integer else schema.TensorType.FLOAT32
    bias_kind = schema.TensorType.INT32 if integer else schema.TensorType.FLOAT32
    fine = np.full(CHANNELS, 1 / 2**14, np.float32)
    graph = schema.SubGraphT()
    graph.tensors = [
        _tensor("input", image, kind, 0, [1 / 128] if integer else None),
        _tensor("weights", weights.shape, kind, 1, fine if integer else None),
        _tensor("bias", bias.shape, bias_kind, 2, fine / 128 if integer else None),
        _tensor("output", image, kind, 0, [1 / 512] if integer else None),
    ]
    graph.inputs, graph.outputs = [_INPUT], [_OUTPUT]
    graph.operators = [_convolution()]
    model = schema.ModelT()
    model.version, model.subgraphs = 3, [graph]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CONV_2D
    code.version = 3
    model.operatorCodes = [code]
    model.buffers = [_buffer(None), _buffer(weights), _buffer(bias)]
    return model


def _tensor(name, shape, kind, buffer, scale) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(shape), kind, buffer
    if scale is not None:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.asarray(scale, np.float32)
        tensor.quantization.zeroPoint = np.zeros(len(scale), np.int64)
    return tensor


def _convolution() -> schema.OperatorT:
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [_INPUT, _WEIGHTS, _BIAS], [_OUTPUT]
    operator.builtinOptionsType = schema.BuiltinOptions.Conv2DOptions
    operator.builtinOptions = schema.Conv2DOptionsT()
    operator.builtinOptions.strideW = operator.builtinOptions.strideH = 1
    return operator


def _buffer(array) -> schema.BufferT:
    buffer = schema.BufferT()
    if array is not None:
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
    return buffer

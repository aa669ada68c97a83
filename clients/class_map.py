"""A model with logits, and an ARG_MAX put behind them: the form that MediaPipe misreads."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.shrink import pack
from tflite_tools.graph import parse_model


def with_arg_max(content: bytes) -> bytes:
    """A `.tflite` that gives int32 [1, height, width] instead of logits."""
    model = parse_model(content, "model")
    [graph] = model.subgraphs
    logits = graph.outputs[0]
    axis = _add_tensor(model, b"axis", [], np.array(3, np.int32).tobytes())
    classes = _add_tensor(model, b"classes", list(graph.tensors[logits].shape[:3]), None)
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ARG_MAX
    code.version = 2
    model.operatorCodes.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = np.array([logits, axis], np.int32)
    operator.outputs = np.array([classes], np.int32)
    operator.builtinOptionsType = schema.BuiltinOptions.ArgMaxOptions
    operator.builtinOptions = schema.ArgMaxOptionsT()
    operator.builtinOptions.outputType = schema.TensorType.INT32
    graph.operators.append(operator)
    graph.outputs = operator.outputs
    model.signatureDefs = None  # they name the logits
    return pack(model, len(content) + (1 << 16))


def _add_tensor(model: schema.ModelT, name: bytes, shape: list[int], data: bytes | None) -> int:
    buffer = schema.BufferT()
    buffer.data = None if data is None else np.frombuffer(data, np.uint8)
    model.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.shape = name, np.array(shape, np.int32)
    tensor.type, tensor.buffer = schema.TensorType.INT32, len(model.buffers) - 1
    [graph] = model.subgraphs
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1

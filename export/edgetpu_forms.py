"""Forms of resizing that an Edge TPU maps, put into a finished integer `.tflite`.

    RESIZE_BILINEAR 1x1 -> h x w      becomes    TILE              (the same function)
    RESIZE_BILINEAR by 4 (by 8, ...)  becomes    resizes by 2      (not quite the same: each step
                                                                    interpolates what the last gave)

The compiler maps bilinear resizes of at most 2x an axis (seen, not documented), and TILE although
its list lacks it (seen in the official Cityscapes model).
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.shrink import pack

_TILE_VERSION = 2


def fit_edgetpu(content: bytes) -> tuple[bytes, list[str]]:
    """Rewrites the resizes of a file.

    Args:
        content: an int8 `.tflite` with one subgraph.

    Returns:
        the new file, and a line for each operator that was changed or could not be.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    operators, report = [], []
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        if number != schema.BuiltinOperator.RESIZE_BILINEAR:
            operators.append(operator)
            continue
        source, target = (graph.tensors[int(i)] for i in (operator.inputs[0], operator.outputs[0]))
        before, after = _size(source), _size(target)
        name = f"resize {before[0]}x{before[1]} to {after[0]}x{after[1]}"
        doublings = _doublings(before, after)
        if before == (1, 1):
            _tile(model, operator, after)
            operators.append(operator)
            report.append(f"{name}: a TILE")
        elif doublings > 1:
            operators += _doubled(model, operator, before, doublings)
            report.append(f"{name}: {doublings} resizes by 2")
        else:
            operators.append(operator)
            if doublings != 1:
                report.append(f"{name}: left as it is; only factors 2, 4, 8, ... can be split")
    graph.operators = operators
    return pack(model, len(content)), report


def _size(tensor) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[2])


def _doublings(before: tuple[int, int], after: tuple[int, int]) -> int:
    """n where both axes grow by 2^n; 0 for anything else."""
    factor, rest = divmod(after[0], before[0])
    power = factor.bit_length() - 1
    if rest or factor != 1 << power or (before[0] * factor, before[1] * factor) != after:
        return 0
    return power


def _tile(model: schema.ModelT, operator, size: tuple[int, int]) -> None:
    multiples = _constant(model, np.array([1, *size, 1], "<i4"), b"tile_multiples")
    operator.inputs = [int(operator.inputs[0]), multiples]
    operator.opcodeIndex = _opcode(model, schema.BuiltinOperator.TILE)
    operator.builtinOptionsType = schema.BuiltinOptions.TileOptions
    operator.builtinOptions = schema.TileOptionsT()


def _doubled(model: schema.ModelT, operator, before: tuple[int, int], count: int) -> list:
    """The same operator `count` times, each doubling height and width."""
    graph = model.subgraphs[0]
    final, current, made = int(operator.outputs[0]), int(operator.inputs[0]), []
    for step in range(1, count + 1):
        height, width = (size << step for size in before)
        output = final if step == count else _between(graph, final, height, width, step)
        size = _constant(model, np.array([height, width], "<i4"), b"resize_size")
        one = schema.OperatorT()
        one.opcodeIndex = operator.opcodeIndex
        one.builtinOptionsType = operator.builtinOptionsType
        one.builtinOptions = operator.builtinOptions
        one.inputs, one.outputs = [current, size], [output]
        made.append(one)
        current = output
    return made


def _between(graph, like: int, height: int, width: int, step: int) -> int:
    old = graph.tensors[like]
    new = schema.TensorT()
    new.shape = [1, height, width, int(old.shape[3])]
    new.shapeSignature = new.shape
    new.name, new.type, new.buffer = old.name + f"_x{2**step}".encode(), old.type, 0
    new.quantization = old.quantization
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def _constant(model: schema.ModelT, values: np.ndarray, name: bytes) -> int:
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(values.tobytes(), np.uint8)
    model.buffers.append(buffer)
    new = schema.TensorT()
    new.shape, new.type = [len(values)], schema.TensorType.INT32
    new.name, new.buffer = name, len(model.buffers) - 1
    graph = model.subgraphs[0]
    graph.tensors.append(new)
    return len(graph.tensors) - 1


def _opcode(model: schema.ModelT, number: int) -> int:
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
    code.version = _TILE_VERSION
    model.operatorCodes.append(code)
    return len(model.operatorCodes) - 1

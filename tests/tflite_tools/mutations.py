"""Ways to damage a `.tflite`: (content, random, positions of tables) -> content."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.file_bytes import FILE_IDENTIFIER


def table_positions(content: bytes) -> np.ndarray:
    """Of every byte that is no weight."""
    weights = np.zeros(len(content), bool)
    model = schema.Model.GetRootAs(content, 0)
    whole = np.frombuffer(content, np.uint8)
    for index in range(model.BuffersLength()):
        data = model.Buffers(index).DataAsNumpy()
        if not isinstance(data, int):
            start = data.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            if 0 <= start < len(content):
                weights[start : start + len(data)] = True
    return np.flatnonzero(~weights[:-8])


def packed(model) -> bytes:
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def flip_bits(content, random, _):
    changed = bytearray(content)
    for position in random.integers(0, len(content), random.integers(1, 64)):
        changed[position] ^= 1 << random.integers(8)
    return bytes(changed)


def flip_tables(content, random, tables):
    """The same among tables and offsets, where a file holds hardly any weights."""
    changed = bytearray(content)
    for position in random.choice(tables, random.integers(1, 8)):
        changed[position] ^= 1 << random.integers(8)
    return bytes(changed)


def change_offsets(content, random, tables):
    changed = bytearray(content)
    for position in random.choice(tables, random.integers(1, 4)) // 4 * 4:
        value = random.choice([0, 1, 4, 2**31 - 1, 2**32 - 1, random.integers(len(content))])
        changed[position : position + 4] = int(value).to_bytes(4, "little")
    return bytes(changed)


def truncate(content, random, _):
    return content[: random.integers(len(content))]


def change_graph(content, random, _):
    """Shapes, indices, types and options that are well-formed and wrong."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for _ in range(random.integers(1, 4)):
        kind = random.integers(5)
        operator = graph.operators[random.integers(len(graph.operators))]
        tensor = graph.tensors[random.integers(len(graph.tensors))]
        if kind == 0 and len(tensor.shape):
            shape = np.array(tensor.shape)
            shape[random.integers(len(shape))] = random.choice([-1, 0, 1, 3, 7, 1000, 2**30])
            tensor.shape = shape.tolist()
        elif kind == 1:
            operator.inputs = list(operator.inputs)
            slot = random.integers(len(operator.inputs))
            operator.inputs[slot] = int(random.integers(-2, len(graph.tensors) + 2))
        elif kind == 2:
            tensor.type = int(random.choice([0, 1, 2, 3, 4, 7, 9, 17, 99]))
        elif kind == 3:
            tensor.buffer = int(random.integers(len(model.buffers) + 1))
        elif operator.builtinOptions is not None:
            names = [n for n, v in vars(operator.builtinOptions).items() if type(v) is int]
            if names:
                name = names[random.integers(len(names))]
                setattr(operator.builtinOptions, name, int(random.choice([0, 1, 2, 5, 100])))
    return packed(model)


def change_ranks(content, random, _):
    """Operands with a dimension more or less, some of them without their constant."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    for _ in range(random.integers(1, 3)):
        operator = graph.operators[random.integers(len(graph.operators))]
        operands = [*operator.inputs, *operator.outputs]
        tensor = graph.tensors[operands[random.integers(len(operands))]]
        shape = list(tensor.shape)
        shapes = [[], [1], [0, 0], [1, 0, 0, 0], shape[1:], [*shape, 1]]
        tensor.shape, tensor.shapeSignature = shapes[random.integers(len(shapes))], None
        if random.integers(2):
            tensor.buffer = 0
    return packed(model)


def change_operators(content, random, _):
    """Fewer inputs, or another kind."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    operators = model.subgraphs[0].operators
    operator = operators[random.integers(len(operators))]
    change = random.integers(3)
    if change == 0:
        operator.inputs = list(operator.inputs)[: random.integers(len(operator.inputs) + 1)]
    elif change == 1:
        operator.opcodeIndex = int(random.integers(len(model.operatorCodes)))
    else:
        code = model.operatorCodes[random.integers(len(model.operatorCodes))]
        code.builtinCode = int(random.integers(160))
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    return packed(model)


MUTATIONS = (
    flip_bits,
    flip_tables,
    change_offsets,
    truncate,
    change_graph,
    change_ranks,
    change_operators,
)

"""Other integers in the biases of a `.tflite`: in place where their bytes are their own."""

import collections
import copy
import io
import zipfile

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from export.shrink import pack


def rewrite_biases(content: bytes, biases: dict[tuple[int, int], np.ndarray]) -> tuple[bytes, bool]:
    """Puts other integers into biases of a `.tflite`.

    Where every one of them has bytes of its own, these alone change. Where one shares them (a
    tensor with two readers, equal vectors stored once) it gets its own, and the file is packed
    anew; a list of labels that is packed behind the graph comes along.

    Args:
        content: the file.
        biases: {(operator position, input slot): integers [channels]}.

    Returns:
        the new file, and whether it was changed in place.
    """
    changed = bytearray(content)
    views = _own_bytes(schema.Model.GetRootAs(changed, 0), list(biases))
    if views is None:
        return _packed_anew(content, biases), False
    for key, bias in biases.items():
        views[key][:] = _as_bytes(bias)
    return bytes(changed), True


def _as_bytes(bias: np.ndarray) -> np.ndarray:
    return np.frombuffer(bias.astype("<i4").tobytes(), np.uint8)


def _own_bytes(model, keys) -> dict[tuple[int, int], np.ndarray] | None:
    """Views of the biases' bytes in the file; None where anything else reads those of one."""
    graph = model.Subgraphs(0)
    readers, users = _readers_and_users(schema.ModelT.InitFromObj(model))
    stored = {index: model.Buffers(index).DataAsNumpy() for index in range(model.BuffersLength())}
    stored = {index: view for index, view in stored.items() if not isinstance(view, int)}
    views = {}
    for position, slot in keys:
        tensor = graph.Operators(position).Inputs(slot)
        buffer = graph.Tensors(tensor).Buffer()
        others = (view for index, view in stored.items() if index != buffer)
        shared = any(np.may_share_memory(stored[buffer], view) for view in others)
        if readers[tensor] > 1 or users[buffer] > 1 or shared:
            return None
        views[position, slot] = stored[buffer]
    return views


def _readers_and_users(model: schema.ModelT) -> tuple[collections.Counter, collections.Counter]:
    """How many inputs read each tensor, and how many tensors (and metadata) each buffer."""
    graph = model.subgraphs[0]
    readers = collections.Counter(int(i) for op in graph.operators for i in op.inputs)
    readers.update(int(i) for i in graph.outputs)
    users = collections.Counter(tensor.buffer for tensor in graph.tensors)
    users.update(entry.buffer for entry in model.metadata or [])
    return readers, users


def _packed_anew(content: bytes, biases: dict[tuple[int, int], np.ndarray]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    readers, users = _readers_and_users(model)
    graph = model.subgraphs[0]
    for (position, slot), bias in biases.items():
        operator = graph.operators[position]
        index = int(operator.inputs[slot])
        tensor = graph.tensors[index]
        shared = users[tensor.buffer] > 1
        if readers[index] > 1:
            tensor, shared = copy.copy(tensor), True
            operator.inputs = operator.inputs.copy()
            operator.inputs[slot] = len(graph.tensors)
            graph.tensors.append(tensor)
        if shared:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
        model.buffers[tensor.buffer].data = _as_bytes(bias)
    return _with_packed_files(pack(model, len(content)), content)


def _with_packed_files(graph: bytes, original: bytes) -> bytes:
    """Appends what the original has in a ZIP behind its graph, such as labels."""
    if not zipfile.is_zipfile(io.BytesIO(original)):
        return graph
    stream = io.BytesIO(graph)
    with (
        zipfile.ZipFile(io.BytesIO(original)) as packed,
        zipfile.ZipFile(stream, "a") as appended,
    ):
        for entry in packed.infolist():
            appended.writestr(entry, packed.read(entry))
    return stream.getvalue()

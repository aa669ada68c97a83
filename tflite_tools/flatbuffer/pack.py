"""Packs a model into a smaller file: equal vectors of the flatbuffer are stored once.

The runtime requires as many zero points as scales: 8 bytes per channel, all zero for weights.
Sharing equal vectors reduces an int8 DeepLabV3+ from 3.26 MB to 2.98 MB. Tables of a flatbuffer
hold offsets, so several tables may refer to one vector.
"""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.file_bytes import FILE_IDENTIFIER
from tflite_tools.flatbuffer.graph import parse_model

BUFFER_ALIGNMENT = 16
"""Bytes; schema.fbs requires it of `Buffer.data` (force_align) for vectorized kernels."""
LARGEST_INSIDE = 3 << 29
"""Bytes of weights that are kept inside the tables, 1.5 GB: a flatbuffer ends at 2 GB."""


class _SharingBuilder(flatbuffers.Builder):
    """Writes each distinct numeric vector once; weights are aligned as the schema requires."""

    head: int  # of the base class

    def __init__(self, initial_size: int) -> None:
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802 - the base class names it
        """Writes a vector, or returns the offset of an equal one."""
        content = x.tobytes()
        key = (x.dtype.str, content)
        if key not in self._written:
            alignment = BUFFER_ALIGNMENT if x.dtype.itemsize == 1 else x.dtype.alignment
            self.StartVector(x.dtype.itemsize, x.size, alignment)
            self.head = self.head - len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self._written[key] = self.EndVector()
        return self._written[key]


def pack(model: schema.ModelT, initial_size: int, *, largest_inside: int = LARGEST_INSIDE) -> bytes:
    """Packs a model into a file with shared vectors and aligned buffers.

    Args:
        model: the model; it is not changed.
        initial_size: first size of the builder's memory, in bytes; it grows as needed.
        largest_inside: most bytes of all buffers together that the tables may hold; above it the
            buffers follow the tables.

    Returns:
        The `.tflite`.
    """
    total = sum(len(buffer.data) for buffer in _filled(model))
    if total <= largest_inside:
        return _pack_tables(model, min(initial_size, LARGEST_INSIDE))
    buffers = model.buffers
    try:
        # Places are 64-bit numbers, so that the first packing has the size of the second.
        model.buffers = [_placed(buffer, 1 << 40) for buffer in buffers]
        size = len(_pack_tables(model, 1 << 16))
        starts, parts = _behind(buffers, size)
        model.buffers = [_placed(*pair) for pair in zip(buffers, starts, strict=True)]
        return b"".join([_pack_tables(model, 1 << 16), *parts])
    finally:
        model.buffers = buffers


def _filled(model: schema.ModelT) -> list[schema.BufferT]:
    return [b for b in model.buffers or [] if b.data is not None and len(b.data)]


def _pack_tables(model: schema.ModelT, initial_size: int) -> bytes:
    builder = _SharingBuilder(initial_size)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def _placed(buffer: schema.BufferT, start: int) -> schema.BufferT:
    """Returns a buffer that names a place behind the tables; an empty one is not changed."""
    if buffer.data is None or not len(buffer.data):
        return buffer
    placed = schema.BufferT()
    placed.offset, placed.size = start, len(buffer.data)
    return placed


def _behind(buffers: list[schema.BufferT], size: int) -> tuple[list[int], list[bytes]]:
    """Returns the start of every buffer behind tables of that size, and the bytes to append.

    Equal buffers have one place; every place is aligned.
    """
    starts, parts, places = [], [], {}
    for buffer in buffers:
        data = b"" if buffer.data is None else np.asarray(buffer.data, np.uint8).tobytes()
        if data and data not in places:
            padding = bytes(-size % BUFFER_ALIGNMENT)
            places[data] = size + len(padding)
            parts += [padding, data]
            size += len(padding) + len(data)
        starts.append(places.get(data, 0))
    return starts, parts


def share_equal_vectors(content: bytes) -> bytes:
    """Rewrites a `.tflite` with shared vectors.

    Args:
        content: the `.tflite`.

    Returns:
        The smaller file; `content` itself if sharing saves nothing.

    Raises:
        ValueError: the file is damaged.
    """
    shared = pack(parse_model(content, "model"), len(content))
    return shared if len(shared) < len(content) else content

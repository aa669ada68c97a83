"""Smaller files with the same content: equal vectors of a flatbuffer are stored once.

The runtime wants as many zero points as scales, 8 bytes a channel and all of them zero for
weights; written once for all tables that need the same ones, a 3.26 MB int8 DeepLabV3+
takes 2.98 MB. A flatbuffer's tables hold offsets, so several may point to one vector.
"""

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import FILE_IDENTIFIER

BUFFER_ALIGNMENT = 16
"""Bytes; schema.fbs demands it of `Buffer.data` (force_align), for kernels that load vectors."""


class _SharingBuilder(flatbuffers.Builder):
    """Writes each distinct numeric vector once, weights aligned as the schema demands."""

    def __init__(self, initial_size: int):
        super().__init__(initial_size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x):  # noqa: N802 - the base class names it
        content = x.tobytes()
        key = (x.dtype.str, content)
        if key not in self._written:
            alignment = BUFFER_ALIGNMENT if x.dtype.itemsize == 1 else x.dtype.alignment
            self.StartVector(x.dtype.itemsize, x.size, alignment)
            self.head = self.head - len(content)
            self.Bytes[self.head : self.head + len(content)] = content
            self._written[key] = self.EndVector()
        return self._written[key]


def pack(model: schema.ModelT, initial_size: int) -> bytes:
    """A model as a file with shared vectors, buffers aligned; `initial_size` in bytes."""
    builder = _SharingBuilder(initial_size)
    builder.Finish(model.Pack(builder), FILE_IDENTIFIER)
    return bytes(builder.Output())


def share_equal_vectors(content: bytes) -> bytes:
    """Rewrites a `.tflite` with shared vectors.

    Weight buffers larger than 2 GB (stored outside the tables) are left as they are.

    Returns:
        the smaller file; `content` itself if sharing gains nothing.
    """
    shared = pack(schema.ModelT.InitFromPackedBuf(content, 0), len(content))
    return shared if len(shared) < len(content) else content

"""Weights that lie behind the flatbuffer's tables, as in files above 2 GB.

schema.fbs, `Buffer`: a flatbuffer counts its offsets in 32 bits, so larger files keep the bytes of
a buffer behind the tables, at `offset` from the start of the file and `size` bytes long; `data` is
empty then. Large options of custom operators are kept in the same way.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.verifier import Allowance

UNSET_OFFSETS = (0, 1)
"""Offsets that name no place: inside, and the converter's mark of one that was never filled in."""


def has_outside_weights(content: bytes) -> bool:
    """Returns whether some bytes lie behind the tables.

    Args:
        content: a `.tflite` that `verify` accepts.
    """
    model = schema.Model.GetRootAs(content, 0)
    buffers = (model.Buffers(index) for index in range(model.BuffersLength()))
    return any(buffer.Offset() not in UNSET_OFFSETS for buffer in buffers)


def bring_inside(model: schema.ModelT, content: bytes, *, allowance: Allowance) -> None:
    """Gives every buffer and operator its bytes, wherever the file keeps them.

    Args:
        model: the unpacked file, which is changed: buffers hold views of `content`.
        content: the file.
        allowance: bytes that may still be read; many buffers may name the same place.

    Raises:
        ValueError: a place lies outside the file or among its tables (the runtime would take parts
            of the graph for weights), or the places overlap too often.
    """
    for index, buffer in enumerate(model.buffers or []):
        if buffer.offset not in UNSET_OFFSETS:
            _check_place(
                buffer.offset,
                buffer.size,
                what=f"buffer {index}",
                end=len(content),
                allowance=allowance,
            )
            buffer.data = part(content, buffer.offset, size=buffer.size)
        buffer.offset = buffer.size = 0
    for subgraph in model.subgraphs or []:
        for index, operator in enumerate(subgraph.operators or []):
            start, size = operator.largeCustomOptionsOffset, operator.largeCustomOptionsSize
            if start not in UNSET_OFFSETS:
                what = f"the options of operator {index}"
                _check_place(start, size, what=what, end=len(content), allowance=allowance)
                operator.customOptions = part(content, start, size=size)
            operator.largeCustomOptionsOffset = operator.largeCustomOptionsSize = 0


def part(content: bytes, offset: int, *, size: int) -> np.ndarray:
    """Returns a view of some bytes.

    Args:
        content: the file.
        offset: of the first one.
        size: their number.

    Returns:
        uint8 [size]; fewer where the file ends before.
    """
    return np.frombuffer(content, np.uint8)[offset : offset + size]


def _check_place(offset: int, size: int, *, what: str, end: int, allowance: Allowance) -> None:
    reason = ""
    if offset <= allowance.last_table:
        reason = f"among the tables, the last of which is at {allowance.last_table}"
    elif offset + size > end:
        reason = f"the file has {end}"
    if reason:
        raise ValueError(f"{what} lies at bytes {offset} to {offset + size}, {reason}")
    allowance.take_bytes(size)

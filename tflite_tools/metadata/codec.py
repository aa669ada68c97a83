"""Encodes tables of `schema.TABLES` as flatbuffer bytes and decodes them.

A table is a dict of its fields; a union is a pair (member, dict). Missing fields are not written,
and fields that a file omits are missing from the result.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import flatbuffers
from flatbuffers import encode as flat
from flatbuffers import number_types as numbers
from flatbuffers.table import Table

from tflite_tools.flatbuffer.verifier import OFFSET_BYTES, Allowance
from tflite_tools.metadata.schema import TABLES, UNIONS

_SCALARS = {
    "byte": numbers.Int8Flags,
    "ubyte": numbers.Uint8Flags,
    "int": numbers.Int32Flags,
    "uint": numbers.Uint32Flags,
    "float": numbers.Float32Flags,
}
_BYTES_ALIGNMENT = 16
"""Of byte vectors, which hold other flatbuffers; required by the schema (force_align)."""


def encode(table: str, values: dict, *, identifier: bytes) -> bytes:
    """Encodes a table as the root of a flatbuffer.

    Args:
        table: its name.
        values: its fields.
        identifier: 4 bytes that name the schema.

    Raises:
        ValueError: a field that the table does not have.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_write_table(builder, table, values=values), identifier)
    return bytes(builder.Output())


def _slots(table: str) -> Iterator[tuple[int, str, str]]:
    """Yields (slot, field, type) of each field; a union's type number takes a slot of its own."""
    slot = 0
    for field, kind in TABLES[table]:
        slot += kind.startswith("union ")
        yield slot, field, kind
        slot += 1


def _write_table(builder: flatbuffers.Builder, table: str, *, values: dict) -> int:
    unknown = set(values) - {field for field, _ in TABLES[table]}
    if unknown:
        raise ValueError(f"{table}: unknown field {', '.join(sorted(unknown))}")
    # Children first: tables of a flatbuffer cannot be nested while they are written.
    written = [
        (slot, kind, _write_value(builder, kind, value=values[field]))
        for slot, field, kind in _slots(table)
        if values.get(field) is not None
    ]
    builder.StartObject(sum(1 + kind.startswith("union ") for _, kind in TABLES[table]))
    for slot, kind, value in written:
        if kind in _SCALARS:
            builder.PrependSlot(_SCALARS[kind], slot, value, 0)
        elif kind.startswith("union "):
            member, offset = value
            builder.PrependUint8Slot(slot - 1, member, 0)
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
    return builder.EndObject()


def _write_value(builder: flatbuffers.Builder, kind: str, *, value: Any) -> Any:
    if kind in _SCALARS:
        return value
    if kind == "string":
        return builder.CreateString(value)
    if kind.startswith("union "):
        member, fields = value
        number = UNIONS[kind.removeprefix("union ")].index(member) + 1
        return number, _write_table(builder, member, values=fields)
    if kind.startswith("["):
        return _write_vector(builder, kind[1:-1], items=value)
    return _write_table(builder, kind, values=value)


def _write_vector(builder: flatbuffers.Builder, kind: str, *, items: Sequence[Any]) -> int:
    if kind in _SCALARS:
        width = _SCALARS[kind].bytewidth
        builder.StartVector(width, len(items), _BYTES_ALIGNMENT if kind == "ubyte" else width)
        for item in reversed(items):
            builder.Prepend(_SCALARS[kind], item)
        return builder.EndVector()
    offsets = [_write_value(builder, kind, value=item) for item in items]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def decode(content: bytes, table: str, *, identifier: bytes) -> dict:
    """Decodes the root table of a flatbuffer.

    Args:
        content: the flatbuffer.
        table: name of its root table.
        identifier: 4 bytes that name the schema.

    Raises:
        ValueError: another identifier, offsets that point outside, or so many offsets to the same
            place that reading would not end.
    """
    if len(content) < 8 or content[4:8] != identifier:
        raise ValueError(
            f"expected metadata with identifier {identifier!r}, got {content[4:8]!r}; write it "
            "again"
        )
    try:
        root = flat.Get(numbers.UOffsetTFlags.packer_type, content, 0)
        return _read_table(Table(content, root), table, allowance=Allowance(len(content)))
    except (struct.error, IndexError, TypeError, ValueError) as error:
        raise ValueError(f"damaged metadata ({error}); write it again") from error


def _read_table(source: Table, table: str, *, allowance: Allowance) -> dict:
    allowance.take_table()
    values: dict = {}
    for slot, field, kind in _slots(table):
        offset = source.Offset(4 + 2 * slot)  # vtable: its size, the table's size, the fields
        if not offset:
            continue
        position = source.Pos + offset
        if kind.startswith("union "):
            number = source.Offset(4 + 2 * (slot - 1))
            member = source.Get(numbers.Uint8Flags, source.Pos + number) if number else 0
            values[field] = _read_union(
                source,
                kind.removeprefix("union "),
                number=member,
                position=position,
                allowance=allowance,
            )
        elif kind.startswith("["):
            values[field] = _read_vector(source, kind[1:-1], offset=offset, allowance=allowance)
        else:
            values[field] = _read_value(source, kind, position=position, allowance=allowance)
    return values


def _read_union(
    source: Table, union: str, *, number: int, position: int, allowance: Allowance
) -> tuple[str, dict]:
    """Reads (member, fields); the fields are empty for members that no segmenter uses."""
    if not 1 <= number <= len(UNIONS[union]):
        raise IndexError(f"{union} has no member {number}")
    member = UNIONS[union][number - 1]
    if member not in TABLES:
        return member, {}
    return member, _read_value(source, member, position=position, allowance=allowance)


def _read_vector(source: Table, kind: str, *, offset: int, allowance: Allowance) -> list | bytes:
    start, count = source.Vector(offset), source.VectorLen(offset)
    width = _SCALARS[kind].bytewidth if kind in _SCALARS else OFFSET_BYTES
    allowance.take_bytes(count * width)
    if start + count * width > len(source.Bytes):
        raise IndexError(f"a vector of {count} {kind} ends outside")
    if kind == "ubyte":
        return bytes(source.Bytes[start : start + count])
    return [
        _read_value(source, kind, position=start + index * width, allowance=allowance)
        for index in range(count)
    ]


def _read_value(source: Table, kind: str, *, position: int, allowance: Allowance) -> Any:
    if kind in _SCALARS:
        return source.Get(_SCALARS[kind], position)
    if kind == "string":
        text = source.String(position)
        allowance.take_bytes(len(text))
        return text.decode()
    return _read_table(Table(source.Bytes, source.Indirect(position)), kind, allowance=allowance)

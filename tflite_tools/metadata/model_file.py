"""Adds a metadata buffer and its files to a `.tflite` without changing a byte of the model.

A flatbuffer's offsets point forward from a root at the front. A new root table is therefore written
in front of the old file, and its fields point into it: weights, shared vectors and alignment stay
unchanged, which unpacking and packing would not guarantee. The associated files follow the
flatbuffer as a plain ZIP, whose offsets are counted from the start of the file.
"""

import io
import lzma
import struct
import zipfile
import zlib

import flatbuffers
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import number_types as numbers
from flatbuffers.table import Table

from tflite_tools.flatbuffer.file_bytes import FILE_IDENTIFIER
from tflite_tools.flatbuffer.graph import parse_model, verified_root
from tflite_tools.flatbuffer.outside_weights import UNSET_OFFSETS, has_outside_weights, part
from tflite_tools.flatbuffer.pack import LARGEST_INSIDE, pack

METADATA_NAME = b"TFLITE_METADATA"
ALIGNMENT = 16
"""Bytes; the largest that the model's schema requires (force_align of weights)."""
MAX_FILE_BYTES = 1 << 20
"""Of all associated files: label files are small, and an untrusted ZIP may be a bomb."""

_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(OSError, ValueError, RuntimeError, NotImplementedError),
)
"""Errors of a damaged ZIP: those of the directory, and those of each decompressor."""

_VERSION, _SUBGRAPHS, _BUFFERS, _METADATA, _FIELDS = 0, 2, 4, 6, 10
_MAX_FRONT_BYTES = 1 << 20


def attach(content: bytes, metadata: bytes, *, files: dict[str, bytes]) -> bytes:
    """Adds metadata and files to a model, in place of those that it has.

    Args:
        content: a `.tflite`.
        metadata: flatbuffer with root ModelMetadata.
        files: associated files by name.

    Raises:
        ValueError: the file is damaged, or its weights are too large to lie inside the tables.
    """
    content = detach(content)
    content += bytes(-len(content) % ALIGNMENT)
    parse_model(content, "model")  # checks it
    content = _with_weights_inside(content)
    builder = _builder_before(content)
    root = _root(content)
    buffers, entries = _targets(root, _BUFFERS), _targets(root, _METADATA)
    entries = [entry for entry in entries if _name(content, entry) != METADATA_NAME]
    entry = _write_entry(builder, len(buffers))
    buffer = _write_buffer(builder, metadata)
    vectors = {
        _BUFFERS: _write_offsets(builder, [*_from_end(content, buffers), buffer]),
        _METADATA: _write_offsets(builder, [*_from_end(content, entries), entry]),
    }
    builder.Finish(_write_root(builder, content, root=root, vectors=vectors), FILE_IDENTIFIER)
    return _append_zip(bytes(builder.Output()), files)


def _with_weights_inside(content: bytes) -> bytes:
    """Returns the file with weights inside the flatbuffer: a table is written in front of it.

    Raises:
        ValueError: they are too large for it.
    """
    if not has_outside_weights(content):
        return content
    inside = pack(parse_model(content, "model"), len(content))
    if has_outside_weights(inside):
        raise ValueError(
            f"expected at most {LARGEST_INSIDE >> 20} MB of weights, got {len(content) >> 20} MB; "
            "metadata can only be added to smaller files"
        )
    return inside + bytes(-len(inside) % ALIGNMENT)


def _root(content: bytes, start: int = 0) -> Table:
    return Table(content, start + struct.unpack_from("<I", content, start)[0])


def _target(root: Table, slot: int) -> int | None:
    """Returns the position that an offset field points to."""
    offset = root.Offset(4 + 2 * slot)
    return root.Indirect(root.Pos + offset) if offset else None


def _targets(root: Table, slot: int) -> list[int]:
    """Returns the positions of the tables in a vector field."""
    offset = root.Offset(4 + 2 * slot)
    if not offset:
        return []
    start = root.Vector(offset)
    return [root.Indirect(start + 4 * index) for index in range(root.VectorLen(offset))]


def _name(content: bytes, entry: int) -> bytes:
    metadata = schema.Metadata()
    metadata.Init(content, entry)
    return metadata.Name() or b""


def _builder_before(content: bytes) -> flatbuffers.Builder:
    """Returns a builder that writes in front of `content`."""
    builder = flatbuffers.Builder(len(content))
    builder.Bytes[:] = content
    builder.head = 0
    return builder


def _from_end(content: bytes, positions: list[int]) -> list[int]:
    """Converts positions to the builder's, which count from the end."""
    return [len(content) - position for position in positions]


def _write_entry(builder: flatbuffers.Builder, buffer_index: int) -> int:
    name = builder.CreateString(METADATA_NAME)
    schema.MetadataStart(builder)
    schema.MetadataAddName(builder, name)
    schema.MetadataAddBuffer(builder, buffer_index)
    return schema.MetadataEnd(builder)


def _write_buffer(builder: flatbuffers.Builder, metadata: bytes) -> int:
    builder.StartVector(1, len(metadata), ALIGNMENT)
    for byte in reversed(metadata):
        builder.PrependByte(byte)
    data = builder.EndVector()
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    return schema.BufferEnd(builder)


def _write_offsets(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _write_root(
    builder: flatbuffers.Builder, content: bytes, *, root: Table, vectors: dict[int, int]
) -> int:
    version = root.Offset(4 + 2 * _VERSION)
    builder.StartObject(_FIELDS)
    if version:
        builder.PrependUint32Slot(_VERSION, root.Get(numbers.Uint32Flags, root.Pos + version), 0)
    for slot in range(1, _FIELDS):
        target = _target(root, slot)
        if slot in vectors:
            builder.PrependUOffsetTRelativeSlot(slot, vectors[slot], 0)
        elif target is not None:
            builder.PrependUOffsetTRelativeSlot(slot, len(content) - target, 0)
    return builder.EndObject()


def _append_zip(content: bytes, files: dict[str, bytes]) -> bytes:
    if not files:
        return content
    stream = io.BytesIO(content)
    stream.seek(0, io.SEEK_END)  # offsets are still counted from the file's start
    with zipfile.ZipFile(stream, "w") as archive:  # "a" would continue a damaged ZIP
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)  # stored; a fixed date: same bytes
    return stream.getvalue()


def detach(content: bytes) -> bytes:
    """Removes the ZIP behind a model and what `attach` wrote in front of it.

    Metadata that another program packed into the model stay; `attach` drops their name.

    Args:
        content: a `.tflite`.

    Raises:
        ValueError: the model's root points outside.
    """
    content = content[: _zip_start(content)]
    try:
        subgraphs = _target(_root(content), _SUBGRAPHS)
    except (struct.error, IndexError) as error:
        raise ValueError(f"damaged .tflite ({error}); fetch it again") from error
    for start in range(ALIGNMENT, min(len(content) - 8, _MAX_FRONT_BYTES), ALIGNMENT):
        if content[start + 4 : start + 8] != FILE_IDENTIFIER:
            continue
        # The old root, if it points to the same subgraphs as the new one in front of it.
        try:
            if _target(_root(content, start), _SUBGRAPHS) == subgraphs:
                return content[start:]
        except (struct.error, IndexError):
            continue
    return content


def _zip_start(content: bytes) -> int:
    """Returns the start of the ZIP, or the file's length if there is none that can be read."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            starts = [item.header_offset for item in archive.infolist()]
    except _ZIP_ERRORS:
        return len(content)
    start = min(starts, default=0)
    return start if content[start : start + 4] == b"PK\x03\x04" and start else len(content)


def extract(content: bytes, name: str) -> tuple[bytes | None, dict[str, bytes]]:
    """Returns the metadata buffer, or None, and the associated files by name.

    Args:
        content: a `.tflite`.
        name: for messages.

    Raises:
        ValueError: not a `.tflite`, damaged, or associated files above `MAX_FILE_BYTES`.
    """
    model = verified_root(content, name)
    metadata = None
    for number in range(model.MetadataLength()):
        entry = model.Metadata(number)
        if entry.Name() == METADATA_NAME:
            if not 0 <= entry.Buffer() < model.BuffersLength():
                raise ValueError(f"{name}: damaged .tflite (its metadata has no buffer)")
            buffer = model.Buffers(entry.Buffer())
            metadata = b"" if buffer.DataIsNone() else buffer.DataAsNumpy().tobytes()
            if buffer.Offset() not in UNSET_OFFSETS:
                metadata = part(content, buffer.Offset(), size=buffer.Size()).tobytes()
    return metadata, _read_zip(content, name)


def _read_zip(content: bytes, name: str) -> dict[str, bytes]:
    if _zip_start(content) == len(content):
        return {}
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        _check_size(archive, name)
        try:
            return {item.filename: archive.read(item) for item in archive.infolist()}
        except _ZIP_ERRORS as error:
            raise ValueError(
                f"{name}: its associated files are damaged ({error}); fetch the file again"
            ) from error


def _check_size(archive: zipfile.ZipFile, name: str) -> None:
    """Checks the size of all entries together, since many may point to the same data."""
    total = 0
    for item in archive.infolist():
        total += item.file_size
        if total > MAX_FILE_BYTES:
            raise ValueError(
                f"{name}: expected at most {MAX_FILE_BYTES} bytes of associated files, got {total} "
                f"up to {item.filename!r}"
            )

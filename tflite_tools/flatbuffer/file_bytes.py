"""Reads a `.tflite` once: its graph, its digest and its metadata come from the same bytes."""

import pathlib

from deeplab_tf import bounded_file

LARGEST_FILE_BYTES = 2**33
"""8 GB. The tables of a flatbuffer end at 2 GB, weights may follow them (`outside_weights`)."""
FILE_IDENTIFIER = b"TFL3"
_HEADER_BYTES = 16

_last: list[tuple[tuple, bytes]] = []
"""The file that was read last, by its identity. A command works on one file after the other."""


def read_model_bytes(path: str | pathlib.Path) -> bytes:
    """Reads a `.tflite`. Its size and its first bytes are checked before the rest is read.

    Args:
        path: the file.

    Returns:
        The content; the same object, if the file was the last one read and did not change.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a `.tflite`, or larger than a flatbuffer can be.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; give a .tflite model")
    bounded_file.check_size(path, limit=LARGEST_FILE_BYTES)
    with path.open("rb") as stream:
        check_header(stream.read(_HEADER_BYTES), str(path))
    status = path.stat()
    identity = (
        *(str(path.absolute()), status.st_dev, status.st_ino, status.st_size),
        *(status.st_mtime_ns, status.st_ctime_ns),
    )
    if not _last or _last[0][0] != identity:
        _last.clear()  # first: two large files need not be in memory at once
        content = bounded_file.read_bytes(path, limit=LARGEST_FILE_BYTES)
        _last.append((identity, content))
    return _last[0][1]


def check_header(content: bytes, name: str) -> None:
    """Checks the first bytes of a `.tflite`.

    Args:
        content: the file, or its first 16 bytes.
        name: of the file, for the message.

    Raises:
        ValueError: another kind of file.
    """
    if len(content) < _HEADER_BYTES or content[4:8] != FILE_IDENTIFIER:
        raise ValueError(
            f"{name}: not a .tflite file (expected identifier {FILE_IDENTIFIER!r}, got "
            f"{content[4:8]!r}); give the converter's output"
        )

"""Reads files of unknown origin: their size is refused before anything is read.

A sparse file of 200 GB takes no space on the disk, and one of 1 GB may hold nothing but spaces. So
every reader states how large its files can be, and no more than that is ever read.
"""

import collections.abc
import contextlib
import json
import pathlib
from typing import Any, NoReturn

LARGEST_JSON_BYTES = 64_000_000
"""The description of an imported network of 30,000 operators has 9 MB."""
LARGEST_LIST_BYTES = 256_000_000
"""Of a text file with one name per line."""

PARSING_ERRORS = (
    *(ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError),
)
"""What reading values of other types than expected can raise."""


def check_size(path: str | pathlib.Path, *, limit: int) -> int:
    """Refuses a file that is too large, without reading it.

    Args:
        path: of the file.
        limit: most bytes.

    Returns:
        Its size in bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger.
    """
    size = pathlib.Path(path).stat().st_size
    if size > limit:
        raise ValueError(f"{path}: expected at most {limit:,} bytes, got {size:,}; check the file")
    return size


def read_bytes(path: str | pathlib.Path, *, limit: int) -> bytes:
    """Reads a whole file.

    Args:
        path: of the file.
        limit: most bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger, or grows while it is read.
    """
    size = check_size(path, limit=limit)
    # Python reserves what is asked for: the limit only where nobody knows the size, as of a pipe.
    most = size if pathlib.Path(path).is_file() else limit
    with pathlib.Path(path).open("rb") as stream:
        content = stream.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path}: expected at most {most:,} bytes, got more; check the file")
    return content


def read_text(path: str | pathlib.Path, *, limit: int = LARGEST_LIST_BYTES) -> str:
    """Reads a whole UTF-8 text file, whatever the locale; a byte order mark is dropped.

    Args:
        path: of the file.
        limit: most bytes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is larger, or not UTF-8.
    """
    try:
        return read_bytes(path, limit=limit).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error.reason}); save it as UTF-8") from error


def read_json(path: str | pathlib.Path, *, limit: int = LARGEST_JSON_BYTES, **how: Any) -> Any:
    """Reads a JSON file. NaN and Infinity, which JSON does not have, are refused.

    Args:
        path: of the file.
        limit: most bytes.
        **how: further arguments of `json.loads`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: too large, no JSON, or nested too deeply.
    """
    return parse_json(read_text(path, limit=limit), **how)


def parse_json(text: str, **how: Any) -> Any:
    """Parses JSON as `read_json` does.

    Args:
        text: of a file.
        **how: further arguments of `json.loads`.

    Raises:
        ValueError: no JSON, or nested too deeply.
    """
    try:
        return json.loads(text, **{"parse_constant": _no_constant, **how})
    except RecursionError as error:
        raise ValueError("its values are nested too deeply") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"expected a finite number, got {name}")


@contextlib.contextmanager
def read_as(path: str | pathlib.Path, kind: str) -> collections.abc.Iterator[None]:
    """Turns every error of reading untrusted values into one line that names the file.

    Args:
        path: of the file.
        kind: what it should hold, such as "the configuration of a training run".

    Raises:
        ValueError: the block met values that it could not use.
    """
    try:
        yield
    except PARSING_ERRORS as error:
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        reason = reason.removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not {kind} ({reason})") from error

"""Writes files that appear under their name only when they are complete."""

import collections.abc
import contextlib
import os
import pathlib
import tempfile


@contextlib.contextmanager
def atomic_path(path: str | pathlib.Path) -> collections.abc.Iterator[pathlib.Path]:
    """Yields a temporary path in the same folder, moved to `path` if the block ends without error.

    After any error (disk full, Ctrl-C) the file has its old content, or does not exist.

    Args:
        path: final name of the file.

    Yields:
        name under which the block writes the file.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(
        prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent
    )
    os.close(handle)
    try:
        yield pathlib.Path(temporary)
        pathlib.Path(temporary).chmod(0o666 & ~_umask())
        pathlib.Path(temporary).replace(path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def write_bytes(path: str | pathlib.Path, content: bytes) -> None:
    """Writes a file of bytes."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | pathlib.Path, content: str) -> None:
    """Writes a text file, UTF-8."""
    write_bytes(path, content.encode())

"""Writes files that appear under their name only when they are complete."""

import collections.abc
import contextlib
import os
import pathlib
import tempfile

from deeplab_tf import folder_lock, scratch


@contextlib.contextmanager
def atomic_path(path: str | pathlib.Path) -> collections.abc.Iterator[pathlib.Path]:
    """Yields a temporary path in the same folder, moved to `path` if the block ends without error.

    After any error (disk full, Ctrl-C) the file has its old content, or does not exist. What a
    killed command left of the same file is removed first.

    Args:
        path: final name of the file.

    Yields:
        name under which the block writes the file.

    Raises:
        OSError: the disk is full, for example; the message names the file.
    """
    path = pathlib.Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.sweep_files(path.parent, scratch.partial_pattern(path.stem, path.suffix))
        handle, temporary = tempfile.mkstemp(
            prefix=f".{path.stem}{scratch.PARTIAL}", suffix=path.suffix, dir=path.parent
        )
        try:
            folder_lock.take(handle)
            yield pathlib.Path(temporary)
            pathlib.Path(temporary).chmod(0o666 & ~_umask())
            pathlib.Path(temporary).replace(path)
        except BaseException:
            pathlib.Path(temporary).unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)


@contextlib.contextmanager
def naming(path: str | pathlib.Path) -> collections.abc.Iterator[None]:
    """Adds a file's name to an error of the system that has none, such as a full disk.

    Args:
        path: that the block writes.
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
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

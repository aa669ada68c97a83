"""A lock on a folder, so that two commands do not write into it at once."""

import collections.abc
import contextlib
import errno
import fcntl
import pathlib

from absl import logging

LOCK_FILE = ".lock"


@contextlib.contextmanager
def exclusive(
    folder: pathlib.Path, busy: str, *, name: str = LOCK_FILE
) -> collections.abc.Iterator[int]:
    """Locks a folder until the block ends; the lock also ends with the process, however it dies.

    Args:
        folder: created if missing.
        busy: what is said of the folder if another process has the lock, and what to do.
        name: of the file in it that is locked.

    Yields:
        File descriptor of the lock: a child that inherits it keeps the lock.

    Raises:
        RuntimeError: another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / name).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RuntimeError(f"{folder}: {busy}") from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
            logging.warning(
                "%s: this file system has no locks; start one command at a time", folder
            )
        yield stream.fileno()


def take(descriptor: int) -> None:
    """Locks an open file of this process, where the file system has locks.

    Args:
        descriptor: of the file; closing it, or the end of the process, frees the lock.
    """
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def is_free(path: pathlib.Path) -> bool:
    """Returns whether a file exists that no living process has locked.

    Args:
        path: of the file.
    """
    try:
        with path.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except OSError:
        return False

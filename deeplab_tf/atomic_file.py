"""Files that appear under their name only when they are whole."""

import contextlib
import os
import pathlib
import tempfile


@contextlib.contextmanager
def atomic_path(path: str | pathlib.Path):
    """Yields a temporary path beside `path`, moved there when the block ends without error.

    Whatever goes wrong (disk full, Ctrl-C), the final name keeps its old content or none.
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
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: str | pathlib.Path, content: str) -> None:
    write_bytes(path, content.encode())

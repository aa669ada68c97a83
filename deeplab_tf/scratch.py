"""Temporary folders and names that a later start finds and removes if this process is killed.

Each is locked while its process lives, so that nothing of a running command is ever removed.
"""

import collections.abc
import contextlib
import glob
import os
import pathlib
import shutil
import tempfile

from absl import logging

from deeplab_tf import folder_lock

PARTIAL = ".partial-"
"""Part of the name of a file or folder that is not complete; eight random characters follow."""
ANY_PARTIAL = f".*{PARTIAL}*"
"""Pattern of all temporary names in a folder."""
_RANDOM = "?" * 8
_CONTENT = "files"


@contextlib.contextmanager
def scratch_folder(purpose: str) -> collections.abc.Iterator[pathlib.Path]:
    """Yields an empty folder in the system's temporary folder, removed when the block ends.

    Folders of the same purpose that killed commands left are removed first.

    Args:
        purpose: one word for its name.
    """
    place = pathlib.Path(tempfile.gettempdir())
    prefix = f"deeplab-tflite-{purpose}-"
    _sweep_folders(place, f"{prefix}{_RANDOM}")
    with tempfile.TemporaryDirectory(prefix=prefix, dir=place) as name:
        folder = pathlib.Path(name)
        with _locked(folder):
            (folder / _CONTENT).mkdir()
            yield folder / _CONTENT


@contextlib.contextmanager
def partial_folder(target: pathlib.Path) -> collections.abc.Iterator[pathlib.Path]:
    """Yields a new folder that replaces `target` if the block ends without error.

    Folders for the same target that killed commands left are removed first.

    Args:
        target: final name; an existing folder is replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _sweep_folders(target.parent, partial_pattern(target.name))
    name = tempfile.mkdtemp(prefix=f".{target.name}{PARTIAL}", dir=target.parent)
    folder = pathlib.Path(name)
    try:
        with _locked(folder) as lock:
            yield folder
            lock.unlink()
            folder.chmod(0o755)
            shutil.rmtree(target, ignore_errors=True)
            folder.replace(target)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def partial_pattern(stem: str, suffix: str = "") -> str:
    """Returns the glob pattern of the temporary names of a file or folder.

    Args:
        stem: of its name; "*" for all.
        suffix: of its name.
    """
    plain = stem if stem == "*" else glob.escape(stem)
    return f".{plain}{PARTIAL}{_RANDOM}{glob.escape(suffix)}"


def sweep_files(folder: pathlib.Path, pattern: str) -> None:
    """Removes files that killed commands left.

    Args:
        folder: that holds them.
        pattern: of `partial_pattern`, or ANY_PARTIAL.
    """
    for path in folder.glob(pattern):
        if path.is_file() and folder_lock.is_free(path):
            logging.info("%s: removed, left by a killed command", path)
            path.unlink(missing_ok=True)


def _sweep_folders(parent: pathlib.Path, pattern: str) -> None:
    for path in parent.glob(pattern):
        own = path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.getuid()
        if own and folder_lock.is_free(path / folder_lock.LOCK_FILE):
            logging.info("%s: removed, left by a killed command", path)
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: pathlib.Path) -> collections.abc.Iterator[pathlib.Path]:
    path = folder / folder_lock.LOCK_FILE
    with path.open("wb") as stream:
        folder_lock.take(stream.fileno())
        yield path

"""Folders that are expensive to fill, filled once for all processes of a test session."""

import fcntl
import pathlib
from collections.abc import Callable

import pytest


def made_once(
    factory: pytest.TempPathFactory, name: str, make: Callable[[pathlib.Path], None]
) -> pathlib.Path:
    """A folder of the session, which `make` fills in the process that comes first.

    Tests read it and change nothing. What is made may depend on nothing but `name`.
    """
    root = factory.getbasetemp()
    if root.name.startswith("popen-"):  # of one process of pytest-xdist, below the session's
        root = root.parent
    folder, done = root / name, root / f"{name}.done"
    with (root / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            folder.mkdir()
            make(folder)
            done.touch()
    return folder

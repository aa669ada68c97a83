"""One environment per framework: their dependencies conflict with each other and this project's."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Sequence

from absl import logging

from deeplab_tf import atomic_file, bounded_file, child_process, folder_lock
from deeplab_tf.scratch import scratch_folder
from export.frameworks.pinned_versions import PINNED

FOLDER_VARIABLE = "DEEPLAB_FRAMEWORKS"
"""Environment variable that names the folder of the environments."""
_MARKER = "installed.json"
_TAIL_LINES = 4


def default_folder() -> pathlib.Path:
    """Returns the folder of the environments: of the variable, else in the user's cache."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return pathlib.Path(given)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "deeplab-tflite" / "frameworks"


def is_installed(name: str, folder: pathlib.Path) -> bool:
    """Returns whether an environment is complete and of the pinned versions.

    Args:
        name: key of `PINNED`.
        folder: of all environments.
    """
    return _installed(folder / name).get("pinned") == list(PINNED[name])


def python_of(name: str, folder: pathlib.Path, *, packages: Sequence[str] = ()) -> pathlib.Path:
    """Returns the Python of an environment, which is made where it is missing or out of date.

    Args:
        name: key of `PINNED`.
        folder: of all environments.
        packages: further requirements that the user's own file imports; they are added to the
            environment, the pinned versions stay.

    Raises:
        RuntimeError: pip failed; the message has its last lines.
    """
    with _alone(name, folder):
        return _prepared(name, folder, packages=packages)


@contextlib.contextmanager
def _alone(name: str, folder: pathlib.Path) -> Iterator[None]:
    """Keeps two commands from making one environment at once."""
    busy = f"another command makes or extends the environment {name}; run this one after it"
    with folder_lock.exclusive(folder, busy, name=f".{name}.lock"):
        yield


def _prepared(name: str, folder: pathlib.Path, *, packages: Sequence[str]) -> pathlib.Path:
    environment = folder / name
    python = environment / "bin" / "python"
    if not is_installed(name, folder):
        logging.info("making the environment %s (minutes, gigabytes; once)", environment)
        _run([sys.executable, "-m", "venv", "--clear", environment], name=name)
        _pip(python, PINNED[name], name=name)
        _note(environment, name=name, packages=())
    known = _installed(environment).get("packages", [])
    missing = [package for package in packages if package not in known]
    if missing:
        logging.info("adding %s to %s", ", ".join(missing), environment)
        with scratch_folder("constraints") as temporary:
            constraints = temporary / "constraints.txt"
            constraints.write_text("\n".join(PINNED[name]) + "\n")
            _pip(python, ["-c", str(constraints), *missing], name=name)
        _note(environment, name=name, packages=[*known, *missing])
    return python


def _installed(environment: pathlib.Path) -> dict:
    try:
        content = bounded_file.read_json(environment / _MARKER)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _note(environment: pathlib.Path, *, name: str, packages: Sequence[str]) -> None:
    content = {"pinned": list(PINNED[name]), "packages": list(packages)}
    atomic_file.write_text(environment / _MARKER, json.dumps(content, indent=2) + "\n")


def _pip(python: pathlib.Path, arguments: Sequence[str], *, name: str) -> None:
    quiet = ("--quiet", "--disable-pip-version-check", "--no-input")
    _run([python, "-m", "pip", "install", *quiet, *arguments], name=name)


def _run(arguments: Sequence[object], *, name: str) -> None:
    done = subprocess.run(
        [str(argument) for argument in arguments],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=child_process.end_child_with_parent,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()[-_TAIL_LINES:]
        raise RuntimeError(
            f"the environment {name} could not be made; check the network and the free space, and "
            "run the command again. pip: " + " | ".join(line.strip() for line in lines)
        )

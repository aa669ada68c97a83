"""One environment per client: their dependencies conflict with each other and this project's."""

import hashlib
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Sequence

FOLDER = pathlib.Path(__file__).resolve().parent
_TAIL_LINES = 4


def run(arguments: Sequence[object], cwd: pathlib.Path | None = None) -> str:
    """Runs a command and returns its standard output.

    Args:
        arguments: the command; each is converted to text.
        cwd: folder to run in, or None for the current one.

    Raises:
        RuntimeError: it failed; the message has its last lines.
    """
    done = subprocess.run(
        [str(argument) for argument in arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RuntimeError(
            f"{pathlib.Path(str(arguments[0])).name} ended with status {done.returncode}: "
            + " | ".join(line.strip() for line in lines[-_TAIL_LINES:])
        )
    return done.stdout


def python_of(name: str) -> pathlib.Path:
    """Returns the Python of an environment, installed if missing or out of date.

    Args:
        name: of `requirements/<name>.txt`.
    """
    requirements = FOLDER / "requirements" / f"{name}.txt"
    environment = FOLDER / ".envs" / name
    python = environment / "bin" / "python"
    marker = environment / "installed"
    if not _up_to_date(marker, requirements):
        run([sys.executable, "-m", "venv", "--clear", environment])
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        run([*pip, "-r", requirements])
        marker.write_text(_digest(requirements))
    return python


def node_in_browser_folder() -> pathlib.Path:
    """Returns the folder with `run.mjs`, its packages installed.

    Raises:
        RuntimeError: Node.js is missing.
    """
    folder = FOLDER / "browser"
    if shutil.which("npm") is None:
        raise RuntimeError("npm is missing; install Node.js 20 or newer, and Chromium")
    marker = folder / "node_modules" / "installed"
    if not _up_to_date(marker, folder / "package.json"):
        flags = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
        run(["npm", "install", *flags], cwd=folder)
        marker.write_text(_digest(folder / "package.json"))
    return folder


def _up_to_date(marker: pathlib.Path, requirements: pathlib.Path) -> bool:
    return marker.is_file() and marker.read_text() == _digest(requirements)


def _digest(path: pathlib.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()

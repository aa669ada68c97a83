"""Starts programs that are not ours: package managers, an emulator, a browser."""

import os
import pathlib
import signal
import subprocess
from collections.abc import Mapping, Sequence

from deeplab_tf import child_process

_LAST_LINES = 2
_LONGEST = 300


class UnavailableError(RuntimeError):
    """This machine cannot check a device; the message says what is missing and how to get it."""


def run_program(
    command: Sequence[object],
    *,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    cwd: pathlib.Path | None = None,
) -> str:
    """Runs a program to its end; it ends with this process and after a time limit.

    Args:
        command: the program and its arguments; each is converted to text.
        timeout_s: longest time.
        environment: of the program; None: ours.
        cwd: folder to run it in; None: ours.

    Returns:
        What it wrote to stdout.

    Raises:
        RuntimeError: it is missing, failed, crashed or took too long; one line.
    """
    arguments = [str(argument) for argument in command]
    name = pathlib.Path(arguments[0]).name
    try:
        done = subprocess.run(
            arguments,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=None if environment is None else dict(environment),
            cwd=cwd,
            preexec_fn=child_process.end_child_with_parent,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{name} took more than {timeout_s:.0f} s") from error
    except FileNotFoundError as error:
        raise RuntimeError(f"{name} is missing") from error
    if done.returncode:
        raise RuntimeError(f"{name} {how_it_ended(done.returncode)}{_reason(done)}")
    return done.stdout


def how_it_ended(status: int) -> str:
    """Returns what an exit status means, in words.

    Args:
        status: of `subprocess`; negative for a signal.
    """
    if status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended with status {status}"


def _reason(done: subprocess.CompletedProcess) -> str:
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    text = " | ".join(lines[-_LAST_LINES:])
    return f": {text[-_LONGEST:]}" if text else ""


def plain_environment(**values: str) -> dict[str, str]:
    """Returns an environment with nothing of this process but the search path and locale.

    Args:
        **values: what to add.
    """
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", **values}

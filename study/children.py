"""Child processes of a study, which all end when the study is stopped."""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import BinaryIO

from deeplab_tf import child_process

BEAT_S = 10.0
"""Seconds between two reports of a running process."""
GRACE_S = 15.0
"""Seconds between Ctrl-C and SIGKILL."""


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """The study was stopped; nothing new is started."""


class Children:
    """Starts processes, each in its own group, so that one signal reaches its children too.

    If this process is killed, a pipe to each of them is closed, and they end.

    Args:
        inherited: file descriptor that each process keeps open, or None. A lock on it is held
            until the last of them has ended, even if this process is killed.
    """

    def __init__(self, inherited: int | None = None) -> None:
        self._pipe = os.pipe()
        self._inherited = (self._pipe[0],) if inherited is None else (self._pipe[0], inherited)
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen] = set()
        self._stopped = False

    def run(
        self,
        command: list[str],
        log: pathlib.Path,
        environment: dict[str, str],
        beat: Callable[[float], None],
    ) -> int:
        """Runs a command to its end.

        Args:
            command: the arguments, the program first.
            log: file that its output is appended to.
            environment: variables to set in addition to those of this process.
            beat: called with the seconds so far, every BEAT_S and at the end.

        Returns:
            its exit status.

        Raises:
            Stopped: the study was stopped before or while it ran.
        """
        started = time.monotonic()
        with log.open("ab") as stream:
            process = self._start(command, stream, {**os.environ, **environment})
            try:
                while True:
                    try:
                        status = process.wait(BEAT_S)
                        break
                    except subprocess.TimeoutExpired:
                        beat(time.monotonic() - started)
            finally:
                with self._lock:
                    self._running.discard(process)
        beat(time.monotonic() - started)
        if self._stopped:
            raise Stopped
        return status

    def _start(
        self, command: list[str], stream: BinaryIO, environment: dict[str, str]
    ) -> subprocess.Popen:
        with self._lock:  # stop() either sees the process or keeps it from starting
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env={**environment, child_process.PIPE_VARIABLE: str(self._pipe[0])},
                start_new_session=True,
                pass_fds=self._inherited,
            )
            self._running.add(process)
            return process

    def close(self) -> None:
        """Closes the pipe, after all processes have ended."""
        for descriptor in self._pipe:
            os.close(descriptor)

    def stop(self) -> None:
        """Ends every process: Ctrl-C first, so that each tidies up, then SIGKILL."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _signal(process, signal.SIGINT)
        deadline = time.monotonic() + GRACE_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            _signal(process, signal.SIGKILL)  # also what it started itself


def _signal(process: subprocess.Popen, number: int) -> None:
    """Sends a signal to the whole group, which can outlive its first process."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return

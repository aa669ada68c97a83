"""Processes that a study has at work, and how all of them end when it is stopped."""

import contextlib
import os
import pathlib
import signal
import subprocess
import threading
import time
from collections.abc import Callable

BEAT_S = 10.0
"""Between two reports of a process that is at work."""
GRACE_S = 15.0
"""Between Ctrl-C and the end that cannot be refused."""


class Stopped(Exception):  # noqa: N818 - no error: the user asked for it
    """The study was stopped; nothing new is started."""


class Children:
    """Starts processes, each in a group of its own, so that one signal ends it with its own.

    Args of the constructor:
        inherited: file descriptor that each process keeps open, or None: a lock on it is held
            until the last of them has ended, whatever became of this process.
    """

    def __init__(self, inherited: int | None = None) -> None:
        self._inherited = () if inherited is None else (inherited,)
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
        """Runs a command to its end, what it says added to `log`.

        Args:
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

    def _start(self, command, stream, environment) -> subprocess.Popen:
        with self._lock:  # stop() either sees the process or keeps it from starting
            if self._stopped:
                raise Stopped
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
                pass_fds=self._inherited,
            )
            self._running.add(process)
            return process

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
            _signal(process, signal.SIGKILL)  # and what it started itself


def _signal(process: subprocess.Popen, number: int) -> None:
    """To the whole group, which may live on without its first process."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return

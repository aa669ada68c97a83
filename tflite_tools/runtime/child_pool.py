"""Child processes that run tasks on files, so that a file that crashes one is only an error.

Each process opens every file that it works on once. If a process dies, the file that it was running
is marked as broken, and another process replaces it.
"""

import dataclasses
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Protocol, TypeVar

from deeplab_tf import child_process


class Openable(Protocol):
    """What a child process can open; picklable."""

    def open(self, num_threads: int) -> Any:
        """Opens it in the child process; the result is the first argument of every task."""

    def memory_bytes(self) -> int:
        """Returns the most memory that it should take once open; called in the parent."""


@dataclasses.dataclass(frozen=True)
class Task:
    """Work for one file.

    Attributes:
        model: which file, an index into the pool's files.
        function: top-level function of (runner, *arguments), run in the child process.
        arguments: picklable.
    """

    model: int
    function: Callable
    arguments: tuple


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of a task.

    Attributes:
        task: the task.
        value: result of the function, or None.
        failure: one line, or "".
    """

    task: Task
    value: Any
    failure: str


def _serve(
    connection: Connection,
    files: Sequence[Openable],
    num_threads: int,
    quiet: bool,
    limits: tuple[bool, int],
) -> None:
    """Runs tasks in the child process until the connection is closed.

    `limits`: whether the parent's main thread started it, and the memory it may take.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    by_main_thread, allowance_bytes = limits
    child_process.end_with_parent(by_main_thread)
    child_process.limit_memory(allowance_bytes)
    if quiet:  # the runtime writes to stderr when it starts
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    runners: dict[int, Any] = {}
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            if task.model not in runners:
                runners[task.model] = files[task.model].open(num_threads)
            reply = (task.function(runners[task.model], *task.arguments), "")
        except Exception as error:
            reply = (None, _reason(error, allowance_bytes))
        connection.send(reply)


def _reason(error: Exception, allowance_bytes: int) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        return f"out of memory{f' ({text})' if text else ''}{_limit_note(allowance_bytes)}"
    where = traceback.extract_tb(error.__traceback__)[-1].name
    return f"{type(error).__name__} in {where}: {text}"


def _limit_note(allowance_bytes: int) -> str:
    if not allowance_bytes:
        return ""
    return (
        f"; its process may take {allowance_bytes / 1e6:.0f} MB, "
        f"{child_process.MEMORY_VARIABLE} sets another limit"
    )


TIMEOUT_S = 600.0
"""Longest time of one task: some damaged files never end."""


_Pool = TypeVar("_Pool", bound="ChildPool")


class ChildPool:
    """A pool of child processes that run tasks on files; results are given as they are ready.

    Args:
        files: what the processes can open, by index.
        processes: number of child processes.
        num_threads: of each interpreter.
        quiet: whether to drop what the runtime writes to stderr.
        timeout_s: longest time of one task.

    Attributes:
        broken: failure of each file that failed, by index.

    Raises:
        ValueError: fewer than one process.
    """

    def __init__(
        self,
        files: Sequence[Openable],
        processes: int,
        *,
        num_threads: int = 1,
        quiet: bool = True,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        if processes < 1:
            raise ValueError(f"processes must be at least 1; got {processes}")
        self._files = files
        self._threads = num_threads
        self._quiet = quiet
        self._timeout_s = timeout_s
        self._context = multiprocessing.get_context("spawn")
        self._allowance_bytes = child_process.memory_allowance(
            sum(file.memory_bytes() for file in files)
        )
        self._children = [self._start() for _ in range(processes)]
        self.broken: dict[int, str] = {}

    def __enter__(self: _Pool) -> _Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child processes."""
        for process, connection in self._children:
            connection.close()
            process.terminate()
        for process, _ in self._children:
            process.join(10)

    def _start(self) -> tuple[BaseProcess, Connection]:
        ours, theirs = self._context.Pipe()
        limits = (child_process.started_by_main_thread(), self._allowance_bytes)
        process = self._context.Process(
            target=_serve,
            args=(theirs, self._files, self._threads, self._quiet, limits),
            daemon=True,
        )
        with child_process.without_script():
            process.start()
        theirs.close()
        return process, ours

    def run(self, tasks: Iterable[Task]) -> Iterator[Outcome]:
        """Runs tasks; a file that failed once gets no further task.

        Args:
            tasks: read one by one, as processes become free.

        Yields:
            An outcome for each task, in the order in which they end.
        """
        waiting = iter(tasks)
        running: dict[int, Task] = {}
        deadlines: dict[int, float] = {}

        def feed(slot: int) -> Outcome | None:
            for task in waiting:
                if task.model in self.broken:
                    return Outcome(task, None, failure=self.broken[task.model])
                try:
                    self._children[slot][1].send(task)
                except OSError:  # it died while idle: no file is the cause
                    self._children[slot][0].join(10)
                    self._children[slot] = self._start()
                    self._children[slot][1].send(task)
                running[slot] = task
                deadlines[slot] = time.monotonic() + self._timeout_s
                return None
            return None

        ready = list(range(len(self._children)))
        while ready or running:
            for slot in ready:
                while (skipped := feed(slot)) is not None:
                    yield skipped
            ready = []
            if not running:
                return
            connections = {self._children[slot][1]: slot for slot in running}
            left = max(0.0, min(deadlines[slot] for slot in running) - time.monotonic())
            done = multiprocessing.connection.wait(list(connections), left)
            late = [s for s in running if not done and deadlines[s] <= time.monotonic()]
            for slot in [connections[connection] for connection in done] + late:  # type: ignore[index]
                task = running.pop(slot)
                value, failure = self._stop(slot) if slot in late else self._receive(slot)
                if failure:
                    self.broken.setdefault(task.model, failure)
                ready.append(slot)
                yield Outcome(task, value, failure=failure)

    def _stop(self, slot: int) -> tuple[object, str]:
        process, connection = self._children[slot]
        connection.close()
        process.kill()
        process.join(10)
        self._children[slot] = self._start()
        return None, f"the file gave no answer within {self._timeout_s:.0f} s; do not deploy it"

    def _receive(self, slot: int) -> tuple[object, str]:
        process, connection = self._children[slot]
        try:
            return connection.recv()
        except (EOFError, OSError):
            process.join(10)
            code = process.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            if code == -signal.SIGABRT:  # native code that gets no memory ends so, too
                cause += _limit_note(self._allowance_bytes)
            self._children[slot] = self._start()
            return None, f"the file crashed the runtime ({cause}); do not deploy it"

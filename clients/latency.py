"""Measures how fast other programs run the same files, each pair in turn on a noisy machine.

python -m clients.latency --model=int8.tflite,float32.tflite --num_threads=1,2

The first run installs an environment per program. On a shared machine, use the ratios to the first
row, not the milliseconds.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO

import numpy as np
from absl import flags

from clients.environments import FOLDER, python_of
from clients.timed import PROGRAMS
from deeplab_tf import command
from tflite_tools.flatbuffer.graph import read_checked_graph

FLAGS = flags.FLAGS
_OWN = "litert"
DEADLINE_S = 300.0
"""Of each answer; loading may convert the file first, which takes a minute."""
_PAUSE_S = 0.1
"""Between invokes: threads that wait in a loop would use the core of the next program."""


@dataclasses.dataclass
class Row:
    """One file in one program.

    Attributes:
        model: the file.
        program: key of `clients.timed.PROGRAMS`.
        process: the child process that runs it, or None if it failed to load.
        times_ms: of each timed invoke.
        failure: why it failed to load, or "".
    """

    model: pathlib.Path
    program: str
    process: subprocess.Popen[str] | None = None
    times_ms: list[float] = dataclasses.field(default_factory=list)
    failure: str = ""
    _errors: IO[str] | None = None
    _late: bool = False

    def start(self, num_threads: int) -> None:
        """Starts the program with the file.

        Args:
            num_threads: of the program.
        """
        python = sys.executable if self.program == _OWN else python_of(self.program)
        # A file, not a pipe: nothing reads while the program writes.
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - see stop
        self.process = subprocess.Popen(
            [python, FOLDER / "timed.py", self.program, self.model, str(num_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # its converters end with it
        )

    def wait_until_ready(self) -> bool:
        """Waits until the file is loaded; returns False if that failed."""
        output = self._child.stdout
        assert output is not None
        with self._deadline():
            for line in output:
                if line == "ready\n":
                    return True
        self.failure = self._reason()
        self.stop()
        return False

    def invoke_ms(self) -> float:
        """Runs one invoke and returns its milliseconds.

        Raises:
            RuntimeError: the program died or was ended at the deadline.
        """
        requests, answers = self._child.stdin, self._child.stdout
        assert requests is not None and answers is not None
        try:
            with self._deadline():
                requests.write("\n")
                requests.flush()
                return float(answers.readline())
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{self.program} died on {self.model}: {self._reason()}") from error

    @property
    def _child(self) -> subprocess.Popen[str]:
        assert self.process is not None
        return self.process

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        """Ends the program at the deadline, and with it the wait for its answer."""
        timer = threading.Timer(DEADLINE_S, self._kill, kwargs={"late": True})
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _kill(self, late: bool = False) -> None:
        self._late |= late
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._child.pid, signal.SIGKILL)

    def _reason(self) -> str:
        """Returns the last line of the program's standard error."""
        if self._late:
            return f"no answer within {DEADLINE_S:g} s"
        status = self._child.wait()
        assert self._errors is not None
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"it ended with status {status} without a message"

    def stop(self) -> None:
        """Ends the program if it runs; a second call does nothing."""
        if self.process is None:
            return
        self._kill()
        with contextlib.suppress(BrokenPipeError):  # an invoke that it did not read
            self.process.communicate()
        if self._errors is not None:
            self._errors.close()
        self.process = None


def measure(rows: list[Row], num_threads: int, *, repeats: int, warmup: int) -> None:
    """Fills `times_ms` of every row that its program can load, in the order A B C A B C ...

    Args:
        rows: files and programs, changed in place.
        num_threads: of each program.
        repeats: timed invokes of each.
        warmup: invokes before.
    """
    with contextlib.ExitStack() as stack:
        for row in rows:  # one after the other: conversions need memory
            row.start(num_threads)
            stack.callback(row.stop)
            row.wait_until_ready()
        alive = [row for row in rows if row.process is not None]
        for round_number in range(warmup + repeats):
            for row in alive:
                time.sleep(_PAUSE_S)
                elapsed = row.invoke_ms()
                if round_number >= warmup:
                    row.times_ms.append(elapsed)


def table(rows: list[Row]) -> str:
    """Formats minimum, median and p90 in ms, and the ratio of the median to the first row's.

    Args:
        rows: measured.
    """
    names = [f"{row.model.parent.name}/{row.model.name}, {row.program}" for row in rows]
    width = max(map(len, names))
    first = next((np.median(row.times_ms) for row in rows if row.times_ms), 1.0)
    lines = [f"{'':<{width}}  {'min':>7} {'median':>7} {'p90':>7} {'ratio':>6}"]
    for name, row in zip(names, rows, strict=True):
        if not row.times_ms:
            lines.append(f"{name:<{width}}  the program does not accept this file: {row.failure}")
            continue
        low, middle, high = np.percentile(row.times_ms, [0, 50, 90])
        ratio = middle / first
        lines.append(f"{name:<{width}}  {low:7.2f} {middle:7.2f} {high:7.2f} {ratio:6.2f}")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measures all files in all programs and prints one table per thread count.

    Returns:
        1 if nothing could be measured for a thread count, else 0.
    """
    models = [pathlib.Path(name) for name in FLAGS.model if name]
    programs = [name for name in FLAGS.client if name]
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(f"--client: unknown {program!r}; known: {', '.join(PROGRAMS)}")
    if not models or not programs or FLAGS.repeats < 1 or FLAGS.warmup < 0:
        raise ValueError(
            "expected files, clients, repeats >= 1 and warmup >= 0; give --model=FILE,..., "
            "--client, --repeats and --warmup"
        )
    thread_counts = _thread_counts()
    for model in models:
        read_checked_graph(model)  # native code reads it next
    failed = False
    for threads in thread_counts:
        rows = [Row(model, program) for model in models for program in programs]
        measure(rows, threads, repeats=FLAGS.repeats, warmup=FLAGS.warmup)
        sys.stdout.write(f"{threads} threads, {FLAGS.repeats} repeats in turn, ms\n{table(rows)}\n")
        failed |= not any(row.times_ms for row in rows)
    return 1 if failed else 0


def _thread_counts() -> list[int]:
    counts = [int(value) if value.isdigit() else 0 for value in FLAGS.num_threads]
    if not counts or min(counts) < 1:
        raise ValueError(
            "--num_threads: expected whole numbers such as 1,2, got "
            f"{','.join(FLAGS.num_threads)!r}"
        )
    return counts


def console() -> None:
    """Runs the command."""
    flags.DEFINE_list("model", "", "Files, each in every program.")
    flags.DEFINE_list("client", list(PROGRAMS), "Programs.")
    flags.DEFINE_list("num_threads", ["1"], "Of each program; one table each.")
    flags.DEFINE_integer("repeats", 40, "Timed invokes of each.")
    flags.DEFINE_integer("warmup", 3, "Invokes before.")
    command.run(main)


if __name__ == "__main__":
    console()

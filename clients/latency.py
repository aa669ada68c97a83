"""How fast other programs run the same files: every pair in turn, so that noise favours none.

python -m clients.latency --model=int8.tflite,float32.tflite --num_threads=1,2

The first time it installs environments of their own. Figures of a shared machine are to be read as
ratios to the first row.
"""

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import time

import numpy as np
from absl import flags

from clients.environments import FOLDER, python_of
from clients.timed import PROGRAMS
from deeplab_tf import command

FLAGS = flags.FLAGS
_OWN = "litert"
_PAUSE_S = 0.1
"""Between invokes: threads of a program that wait in a loop would take the next one's core."""


@dataclasses.dataclass
class Row:
    """One file in one program.

    Attributes:
        model: the file.
        program: key of `clients.timed.PROGRAMS`.
        process: the child that holds it, or None when it failed to load.
        times_ms: of each invoke that counts.
    """

    model: pathlib.Path
    program: str
    process: subprocess.Popen | None = None
    times_ms: list[float] = dataclasses.field(default_factory=list)

    def start(self, num_threads: int) -> None:
        python = sys.executable if self.program == _OWN else python_of(self.program)
        self.process = subprocess.Popen(
            [python, FOLDER / "timed.py", self.program, self.model, str(num_threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def wait_until_ready(self) -> bool:
        assert self.process is not None
        for line in self.process.stdout:
            if line == "ready\n":
                return True
        self.process.wait()
        self.process = None
        return False

    def invoke_ms(self) -> float:
        """Raises RuntimeError where the program died."""
        assert self.process is not None
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
            return float(self.process.stdout.readline())
        except (OSError, ValueError) as error:
            raise RuntimeError(f"{self.program} died on {self.model}") from error


def measure(rows: list[Row], num_threads: int, repeats: int, warmup: int) -> None:
    """Fills `times_ms` of every row that its program can load, A B C A B C ..."""
    with contextlib.ExitStack() as stack:
        for row in rows:  # one after the other: conversions take memory
            row.start(num_threads)
            stack.callback(row.process.kill)
            row.wait_until_ready()
        alive = [row for row in rows if row.process is not None]
        for round_number in range(warmup + repeats):
            for row in alive:
                time.sleep(_PAUSE_S)
                elapsed = row.invoke_ms()
                if round_number >= warmup:
                    row.times_ms.append(elapsed)


def table(rows: list[Row]) -> str:
    """Minimum, median and p90 in ms, and the median as a ratio to the first row's."""
    names = [f"{row.model.parent.name}/{row.model.name}, {row.program}" for row in rows]
    width = max(map(len, names))
    first = next((np.median(row.times_ms) for row in rows if row.times_ms), 1.0)
    lines = [f"{'':<{width}}  {'min':>7} {'median':>7} {'p90':>7} {'ratio':>6}"]
    for name, row in zip(names, rows, strict=True):
        if not row.times_ms:
            lines.append(f"{name:<{width}}  the program does not take this file")
            continue
        low, middle, high = np.percentile(row.times_ms, [0, 50, 90])
        ratio = middle / first
        lines.append(f"{name:<{width}}  {low:7.2f} {middle:7.2f} {high:7.2f} {ratio:6.2f}")
    return "\n".join(lines) + "\n"


def main() -> int:
    models = [pathlib.Path(name) for name in FLAGS.model if name]
    for model in models:
        if not model.is_file():
            raise FileNotFoundError(f"{model}: no such file; check --model")
    programs = [name for name in FLAGS.client if name]
    for program in programs:
        if program not in PROGRAMS:
            raise ValueError(f"--client: unknown {program!r}; known: {', '.join(PROGRAMS)}")
    if not models or not programs or FLAGS.repeats < 1 or FLAGS.warmup < 0:
        raise ValueError("give --model=FILE,..., a --client, --repeats >= 1 and --warmup >= 0")
    failed = False
    for threads in FLAGS.num_threads:
        rows = [Row(model, program) for model in models for program in programs]
        measure(rows, int(threads), FLAGS.repeats, FLAGS.warmup)
        sys.stdout.write(f"{threads} threads, {FLAGS.repeats} repeats in turn, ms\n{table(rows)}\n")
        failed |= not any(row.times_ms for row in rows)
    return 1 if failed else 0


def console() -> None:
    flags.DEFINE_list("model", "", "Files, each in every program.")
    flags.DEFINE_list("client", list(PROGRAMS), "Programs.")
    flags.DEFINE_list("num_threads", ["1"], "Of each program; one table each.")
    flags.DEFINE_integer("repeats", 40, "Timed invokes of each.")
    flags.DEFINE_integer("warmup", 3, "Invokes before.")
    command.run(main)


if __name__ == "__main__":
    console()

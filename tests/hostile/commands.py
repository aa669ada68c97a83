"""Runs a command on a hostile input and watches what it does to the machine."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import threading
import time

from tests.paths import ROOT

_SAMPLE_S = 0.02


@dataclasses.dataclass
class Watched:
    """What a command did.

    Attributes:
        status: exit status.
        errors: what it wrote on stderr.
        output: what it wrote on stdout.
        seconds: how long it took.
        peak_mb: most resident memory of the command and all its children at once.
        left: processes that it started and that were alive after its end.
        files: files that exist after it and did not before, in the folders it could write to.
    """

    status: int
    errors: str
    output: str
    seconds: float
    peak_mb: float
    left: list[int]
    files: list[str]

    @property
    def line(self) -> str:
        """The one line that names the error; fails if there is more."""
        assert "Traceback" not in self.errors, self.errors[-3000:]
        lines = [line for line in self.errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.errors[-3000:]
        return lines[0]


def watch(folder: pathlib.Path, module: str, *flags: object, **environment: str) -> Watched:
    """Runs `python -m module flags` in a folder of its own, with its own home and TMPDIR."""
    places = {name: folder / name for name in ("work", "temporary", "home")}
    for place in places.values():
        place.mkdir(exist_ok=True)
    before = _files(folder)
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(places["temporary"]),
        "HOME": str(places["home"]),
        **environment,
    }
    started = time.monotonic()
    with (folder / "stdout").open("wb") as output, (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, flags)],
            cwd=places["work"],
            env=variables,
            stdout=output,
            stderr=errors,
        )
        sampler = _Sampler(process.pid)
        sampler.start()
        try:
            status = process.wait(300)
        finally:
            process.kill()
            seconds = time.monotonic() - started
            sampler.stop()
    left = [pid for pid in sampler.seen - {process.pid} if _is_alive(pid, wait_s=5.0)]
    texts = [(folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
    for name in ("stdout", "stderr"):
        (folder / name).unlink()
    return Watched(
        status,
        texts[1],
        texts[0],
        seconds=seconds,
        peak_mb=sampler.peak_mb,
        left=left,
        files=sorted(_files(folder) - before),
    )


def _files(folder: pathlib.Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


class _Sampler(threading.Thread):
    """Adds up the resident memory of a process and of all that it started."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._ended = pid, threading.Event()
        self.peak_mb, self.seen = 0.0, {pid}

    def run(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.seen |= _tree(self._pid)
            self.peak_mb = max(self.peak_mb, resident_mb_of_tree(self._pid))

    def stop(self) -> None:
        self._ended.set()
        self.join()


def resident_mb_of_tree(pid: int) -> float:
    """Returns the resident memory of a process and of all that it started, in 10^6 bytes."""
    return sum(map(_resident_mb, _tree(pid)))


def _tree(pid: int) -> set[int]:
    found, waiting = set(), [pid]
    while waiting:
        one = waiting.pop()
        found.add(one)
        try:
            for task in pathlib.Path(f"/proc/{one}/task").iterdir():
                waiting += [int(child) for child in (task / "children").read_text().split()]
        except (OSError, ValueError):
            continue
    return found


def _resident_mb(pid: int) -> float:
    try:
        pages = int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _is_alive(pid: int, *, wait_s: float) -> bool:
    """Whether a process still runs after a while; the helpers of Python end with their pipe."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        if state == "Z":
            return False
        time.sleep(0.05)
    return True

"""Children of a command: they end with it, however it dies, and their memory is limited."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from deeplab_tf import child_process
from study.children import Children
from tests.paths import CAMVID, ROOT
from tflite_tools.runtime.child_pool import ChildPool, Task

INT8 = CAMVID / "int8.tflite"
PARENT = """
import os, sys, threading
from deeplab_tf import child_process
from tests.hostile.test_processes import Opened, sleep, report
from tflite_tools.runtime.child_pool import ChildPool, Task
if sys.argv[1] == "thread":
    child_process.started_by_main_thread = lambda: False  # as where there is no such signal
if __name__ == "__main__":
    pool = ChildPool([Opened()], 1, quiet=False)
    for outcome in pool.run([Task(0, report, ()), Task(0, sleep, ())]):
        print(outcome.value, outcome.failure, flush=True)
"""


class Opened:
    """What the children open: nothing."""

    def open(self, num_threads):
        return None

    def memory_bytes(self):
        return 0


def report(_):
    return os.getpid()


def sleep(_):
    time.sleep(120)


def allocate(_, size):
    return int(np.ones(size, np.uint8)[-1])


def ends(pid, within_s=15.0):
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z":
                time.sleep(0.05)
                continue
        return True
    return False


@pytest.mark.parametrize("way", ["signal", "thread"])
def test_a_child_ends_with_a_parent_that_was_killed(tmp_path, way):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen(
        [sys.executable, script, way],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        child = int(parent.stdout.readline().split()[0])
        assert pathlib.Path(f"/proc/{child}").exists()
        parent.kill()
    assert ends(child)


def test_commands_of_a_study_end_with_a_study_that_was_killed(tmp_path):
    code = (
        "import os, sys, time\n"
        "from deeplab_tf import child_process\n"
        "child_process.GRACE_S = 0.2\n"
        "child_process.end_command_with_parent()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(120)\n"
    )
    study = (
        "import pathlib, sys\n"
        "from study.children import Children\n"
        "command = [sys.executable, '-c', sys.argv[2]]\n"
        "Children().run(command, pathlib.Path(sys.argv[1]), {}, print)\n"
    )
    log = tmp_path / "log"
    parent = subprocess.Popen(
        [sys.executable, "-c", study, log, code], env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    assert ends(int(log.read_text().split()[0]))


def test_a_finished_command_is_left_alone(tmp_path):
    children = Children()
    status = children.run(
        [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log", {}, lambda _: None
    )
    children.close()
    assert status == 3


def test_a_child_at_its_limit_gives_one_line(monkeypatch):
    monkeypatch.setenv(child_process.MEMORY_VARIABLE, "200")
    with ChildPool([Opened()], 1) as pool:
        small, large = pool.run([Task(0, allocate, (1000,)), Task(0, allocate, (1_000_000_000,))])
    assert small.value == 1
    assert large.failure.startswith("out of memory (Unable to allocate")
    assert large.failure.endswith(
        "its process may take 200 MB, DEEPLAB_CHILD_MEMORY_MB sets another limit"
    )


def test_the_limit_can_be_lifted_and_must_be_a_number(monkeypatch):
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.delenv(child_process.MEMORY_VARIABLE, raising=False)
    assert child_process.memory_allowance(1 << 60) == machine
    assert child_process.memory_allowance(0) == min(child_process.BASE_BYTES, machine)
    monkeypatch.setenv(child_process.MEMORY_VARIABLE, "0")
    assert child_process.memory_allowance(1 << 60) == 0
    monkeypatch.setenv(child_process.MEMORY_VARIABLE, "much")
    with pytest.raises(ValueError, match=r"expected 10\^6 bytes, got 'much'"):
        child_process.memory_allowance(0)


def test_an_interrupt_reaches_the_parent_alone():
    """Ctrl-C goes to the whole group: the child ignores it, the parent tidies up."""
    with ChildPool([Opened()], 1) as pool:
        [outcome] = pool.run([Task(0, report, ())])
        os.kill(outcome.value, signal.SIGINT)
        [again] = pool.run([Task(0, report, ())])
    assert again.value == outcome.value

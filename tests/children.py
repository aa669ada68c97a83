"""Child processes that start in milliseconds: forked from one that has imported TensorFlow.

Nearly a thousand children start in a test run, and importing TensorFlow takes seconds of each. All
children of a test process come from one server (the standard library's forkserver) that has
imported the libraries and nothing else: each is a process of its own, with its own flags, signals,
files and exit status, and may crash.
"""

import atexit
import multiprocessing
import multiprocessing.context
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import tempfile
import warnings
from multiprocessing import forkserver

import absl.app

from tests.paths import ROOT

_PRELOADED = [
    "deeplab_tf",  # sets TensorFlow's environment, so it is first
    "tensorflow",
    "tf_keras",
    "tensorflow_model_optimization",
    "PIL.Image",
    "jinja2",
    "export.conversion.convert",
    "tflite_tools.runtime.pool",
]
_real_context = multiprocessing.get_context


def _quick_context(method: str | None = None) -> multiprocessing.context.BaseContext:
    return _real_context("forkserver" if method == "spawn" else method)


def start_quickly() -> None:
    """From here on, what asks for spawned children gets them from the server."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    multiprocessing.get_context = _quick_context


def start_truly() -> None:
    """From here on, spawned children are new interpreters, as in production."""
    multiprocessing.get_context = _real_context


class Command:
    """`python -m module flags`, started at once in a child of the server.

    Attributes:
        pid: of the process.
        returncode: None while it runs; then as in `subprocess.Popen`.
    """

    def __init__(self, module: str, *flags, environment: dict[str, str] | None = None, cwd=ROOT):
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self._files = [pathlib.Path(self._folder.name) / name for name in ("stdout", "stderr")]
        self.args = ["python", "-m", module, *map(str, flags)]
        context = _real_context("forkserver")
        forkserver.ensure_running()
        self._process = context.Process(
            target=_run_module,
            args=(self.args[2:], {**os.environ, **(environment or {})}, str(cwd), self._files),
            kwargs={"server": forkserver._forkserver._forkserver_address},
        )
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def output(self) -> str:
        """What was printed so far."""
        return self._files[0].read_text() if self._files[0].exists() else ""

    def errors(self) -> str:
        """What was written on stderr so far."""
        return self._files[1].read_text() if self._files[1].exists() else ""

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end and returns stdout and stderr."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.args, timeout, self.output(), self.errors())
        texts = self.output(), self.errors()
        self._folder.cleanup()
        return texts


def run_command(
    module: str, *flags, timeout: float = 300, environment=None, cwd=ROOT
) -> subprocess.CompletedProcess:
    """Runs `python -m module flags` to its end."""
    command = Command(module, *flags, environment=environment, cwd=cwd)
    output, errors = command.communicate(timeout)
    return subprocess.CompletedProcess(command.args, command.returncode, output, errors)


def _run_module(arguments, environment, cwd, files, *, server) -> None:
    for descriptor, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    atexit._clear()
    absl.app._init_callbacks.clear()  # of TensorFlow's own tests, which would start its devices
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, cwd)
    sys.argv = list(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for action in filter(None, environment.get("PYTHONWARNINGS", "").split(",")):
        warnings.simplefilter(action)  # as the interpreter does at its start
    # Children of the command come from the same server.
    forkserver._forkserver._forkserver_address = server
    forkserver._forkserver.ensure_running = lambda: None
    multiprocessing.get_context = _quick_context
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        atexit._run_exitfuncs()

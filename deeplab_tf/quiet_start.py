"""Quiet seconds while a command imports its libraries: no notes, and no traceback at Ctrl-C.

TensorFlow's notes about its own build (`oneDNN custom operations are on`, `Could not find cuda
drivers`) are written before its log level is read, so no environment variable stops them. All other
lines are passed on.
"""

import collections.abc
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import pathlib
import re
import signal
import sys
import tempfile
import threading
import types
from typing import Any

_GPU_DRIVER = pathlib.Path("/dev/nvidiactl")
"""Where it exists, what TensorFlow says of the GPU matters, and all of it is shown."""
_KNOWN = re.compile(
    r"All log messages before absl::InitializeLog\(\) is called"
    r"|port\.cc:\d+\] oneDNN custom operations are on"
    r"|cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized"
    r"|To enable the following instructions: .* rebuild TensorFlow"
)
_KNOWN_WITHOUT_GPU = re.compile(
    r"cudart_stub\.cc:\d+\] Could not find cuda drivers"
    r"|cuda_platform\.cc:\d+\] failed call to cuInit"
)

_terminal = [2]
"""File descriptor of the real standard error."""


def end_at_interrupt() -> None:
    """From here on, if this process is a command, Ctrl-C ends it with one line.

    There is nothing to tidy up yet; `command.run` takes over. A program that imports this package
    keeps its own handler.
    """
    program = pathlib.Path(sys.argv[0]).name if sys.argv else ""
    is_command = program == "-m" or program.startswith("deeplab-")  # python -m, while it imports
    in_main_thread = threading.current_thread() is threading.main_thread()
    untouched = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_command and in_main_thread and untouched:
        signal.signal(signal.SIGINT, _end)


def handle_interrupts() -> None:
    """Ctrl-C is a KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: types.FrameType | None) -> None:
    os.write(_terminal[0], b"error: interrupted before anything was done\n")
    os._exit(128 + number)


def import_tensorflow_quietly() -> None:
    """From here on, the first import of TensorFlow is quiet."""
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        if fullname != "tensorflow":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: types.ModuleType) -> None:
        with _filtered():
            self._loader.exec_module(module)
            if not _GPU_DRIVER.exists():
                # Looks for a GPU, which otherwise happens, and is complained of, in the middle of
                # the work. With a driver it is left alone: a later fork must not inherit it.
                module.config.list_physical_devices()
        if module.__spec__ is not None:  # nothing else needs to know of this
            module.__spec__.loader = module.__loader__ = self._loader


@contextlib.contextmanager
def _filtered() -> collections.abc.Iterator[None]:
    """Holds back what is written to file descriptor 2, and then writes it without known notes."""
    sys.stderr.flush()
    try:
        terminal = os.dup(2)
    except OSError:  # no standard error at all
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        _terminal[0] = terminal
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(terminal, 2)
            _terminal[0] = 2
            os.close(terminal)
            held.seek(0)
            text = held.read().decode(errors="replace")
            sys.stderr.write("".join(filter(_is_news, text.splitlines(keepends=True))))
            sys.stderr.flush()


def _is_news(line: str) -> bool:
    harmless = _KNOWN.search(line) or (not _GPU_DRIVER.exists() and _KNOWN_WITHOUT_GPU.search(line))
    return not harmless

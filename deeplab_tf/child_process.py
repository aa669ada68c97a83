"""What every child process does first: it ends with its parent, and its memory is limited."""

import contextlib
import ctypes
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import resource
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator

MEMORY_VARIABLE = "DEEPLAB_CHILD_MEMORY_MB"
"""Environment variable: memory that a child process may take, in 10^6 bytes; 0: no limit."""
PIPE_VARIABLE = "DEEPLAB_PARENT_PIPE"
"""Environment variable of a command that another started: file descriptor of a pipe, which is
closed when that one ends."""
GRACE_S = 10.0
"""Seconds between SIGTERM and the end of a command whose parent has ended."""
BASE_BYTES = 3 * 10**9
"""Address space that a runtime takes for itself: libraries, the stacks and heaps of threads."""
WHOLE_MACHINE = 1 << 50
"""More memory than any machine has: what it has is then the limit."""
_SET_PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


_STARTING = threading.Lock()


@contextlib.contextmanager
def without_script() -> Iterator[None]:
    """Starts children of `multiprocessing` that do not run the caller's script a second time.

    A spawned child imports its parent's main module. No work of a child lies there, and a script
    that calls this library without `if __name__ == "__main__"` would start from its first line.
    """
    with _STARTING:
        main = sys.modules["__main__"]
        if getattr(main, "__spec__", None) is not None:  # `python -m`: importing it runs nothing
            yield
            return
        sys.modules["__main__"] = types.ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main


def started_by_main_thread() -> bool:
    """Returns whether a child started now may ask the kernel to end it: call it in the parent.

    The kernel's signal comes when the thread that started the child ends, not the process.
    """
    return threading.current_thread() is threading.main_thread()


def end_with_parent(by_main_thread: bool = True) -> None:
    """Makes this process of `multiprocessing` end when its parent does, even by SIGKILL.

    Linux sends a signal. Everywhere, a thread waits for the end of the pipe that `multiprocessing`
    keeps between the two; it needs Python's lock, which native code may hold for long.

    Args:
        by_main_thread: what `started_by_main_thread` returned in the parent.
    """
    if by_main_thread and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    sentinel = parent.sentinel

    def watch() -> None:
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_command_with_parent() -> None:
    """Makes this command end when the one that started it does: SIGTERM, then the end.

    Does nothing unless that one set PIPE_VARIABLE.
    """
    text = os.environ.pop(PIPE_VARIABLE, "")  # the descriptor is not passed on
    if not text.isdigit():
        return
    descriptor = int(text)

    def watch() -> None:
        try:
            while os.read(descriptor, 1):
                pass
        except OSError:
            return  # not a pipe: the variable is not from us
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def end_child_with_parent() -> None:
    """Does the same between fork and exec of a program that is not ours: `preexec_fn`.

    Only on Linux, and only for children that the main thread starts.
    """
    if _LIBRARY is not None:
        _LIBRARY.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)


_LIBRARY = ctypes.CDLL(None) if sys.platform == "linux" else None
"""Loaded here: after a fork, nothing may be loaded."""


def memory_allowance(wanted_bytes: int) -> int:
    """Chooses the memory of a child process; call it in the parent, whose environment counts.

    Args:
        wanted_bytes: what its work needs at most, without the runtime itself.

    Returns:
        Bytes that it may take in addition to what it starts with; 0: no limit. Never more than the
        machine has, unless MEMORY_VARIABLE says so.

    Raises:
        ValueError: MEMORY_VARIABLE is no number.
    """
    if text := os.environ.get(MEMORY_VARIABLE, ""):
        try:
            return max(0, int(float(text) * 1e6))
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{MEMORY_VARIABLE}: expected 10^6 bytes, got {text!r}") from error
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min(BASE_BYTES + wanted_bytes, machine) if machine > 0 else BASE_BYTES + wanted_bytes


def limit_memory(allowance_bytes: int) -> None:
    """Limits the address space of this process to what it has now and an allowance.

    What goes beyond fails in this process (MemoryError, or an abort of native code), instead of
    taking the machine's memory. Only where /proc tells how much it has.

    Args:
        allowance_bytes: of `memory_allowance`; 0: no limit.
    """
    try:
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        return
    if allowance_bytes <= 0:
        return
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + allowance_bytes
    if most != resource.RLIM_INFINITY:
        limit = min(limit, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))

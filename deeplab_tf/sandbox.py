"""Runs a command again inside bubblewrap: it can write to its output folder alone, and no network.

    python -m tflite_tools.describe --model=foreign.tflite --sandbox=bwrap

What the command sees: all files, read-only; of the folders where other programs keep sockets and
temporary files (`HIDDEN`) only what its flags name, and a TMPDIR of its own.
"""

import collections.abc
import contextlib
import glob
import os
import pathlib
import shutil
import signal
import subprocess
import sys

from absl import flags

from deeplab_tf.scratch import scratch_folder

FLAG = "sandbox"
PROGRAM = "bwrap"
TEMPORARY = "/tmp"
HIDDEN = ("/run", "/var/tmp", TEMPORARY)
"""A socket is no file: a program that can reach one can talk to who listens, even read-only."""
Outputs = collections.abc.Callable[[], collections.abc.Iterable[pathlib.Path]]
"""Returns the folders that a command writes to; called when flags are parsed."""
_INSIDE = "DEEPLAB_IN_SANDBOX"
_SECONDS = 30


def define_flag() -> None:
    """Defines --sandbox, for a command that opens files of strangers."""
    flags.DEFINE_enum(
        FLAG, "", ["", PROGRAM], "Run in bubblewrap: nothing else is written to, no network."
    )


def is_wanted() -> bool:
    """Returns whether the flag asks for a sandbox that this process is not yet in."""
    wanted = FLAG in flags.FLAGS and flags.FLAGS[FLAG].value
    return bool(wanted) and not os.environ.get(_INSIDE)


def run(outputs: collections.abc.Iterable[pathlib.Path]) -> int:
    """Runs this command inside the sandbox and waits for its end.

    Ctrl-C and SIGTERM are passed on, so that it tidies up.

    Args:
        outputs: folders that it writes to; they are created.

    Returns:
        Its exit status.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
        RuntimeError: this system does not allow a sandbox.
    """
    program = shutil.which(PROGRAM)
    if program is None:
        raise FileNotFoundError(
            f"--{FLAG}={PROGRAM}: the program {PROGRAM} is missing; install bubblewrap, or leave "
            f"--{FLAG} out"
        )
    folders = [path.absolute() for path in outputs]
    with scratch_folder(FLAG) as temporary, _existing(folders):
        prefix = [program, *_options(temporary, folders), "--"]
        _check_start(prefix)
        # A session of its own: without a terminal nobody can type into it.
        process = subprocess.Popen(
            [*prefix, sys.executable, *sys.orig_argv[1:]], start_new_session=True
        )
        status = _end_of(process)
    return status if status >= 0 else 128 - status


def _options(temporary: pathlib.Path, outputs: list[pathlib.Path]) -> list[str]:
    options = ["--unshare-all", "--die-with-parent", "--ro-bind", "/", "/"]
    options += ["--dev", "/dev", "--proc", "/proc"]
    for hidden in HIDDEN:
        if pathlib.Path(hidden).is_dir() and not pathlib.Path(hidden).is_symlink():
            options += ["--tmpfs", hidden]
    options += ["--bind", str(temporary), TEMPORARY, "--setenv", "TMPDIR", TEMPORARY]
    # matplotlib would say that it cannot write to the user's folder.
    options += ["--setenv", "MPLCONFIGDIR", f"{TEMPORARY}/matplotlib"]
    for path in sorted(_needed(), key=lambda path: len(path.parts)):
        if _is_hidden(path):
            options += ["--ro-bind", str(path), str(path)]
    for path in outputs:
        options += ["--bind", str(path), str(path)]
    here = pathlib.Path.cwd()
    options += ["--dir", str(here)] if _is_hidden(here) else []
    return [*options, "--chdir", str(here), "--setenv", _INSIDE, PROGRAM]


def _is_hidden(path: pathlib.Path) -> bool:
    return any(path.is_relative_to(hidden) for hidden in HIDDEN)


def _needed() -> set[pathlib.Path]:
    """Returns what runs the command, and the files and folders that its flags name.

    With a file come those beside it with the same stem: a `.tflite` has its manifest there.
    """
    checkout = pathlib.Path(__file__).parents[1]
    needed = {checkout, pathlib.Path(sys.prefix), pathlib.Path(sys.base_prefix)}
    needed |= {pathlib.Path(entry) for entry in (*sys.path, sys.argv[0]) if entry}
    for text in _texts_of_flags():
        path = pathlib.Path(text)
        with contextlib.suppress(OSError, ValueError):  # no path at all
            if path.is_file():
                needed |= set(path.parent.glob(f"{glob.escape(path.stem)}.*")) | {path}
            elif path.is_dir():
                needed.add(path)
    return {path.absolute() for path in needed if path.exists()}


def _texts_of_flags() -> list[str]:
    texts = []
    for name in flags.FLAGS:
        value = flags.FLAGS[name].value
        values = value if isinstance(value, list) else [value]
        texts += [one for one in values if isinstance(one, str) and one]
    return texts


@contextlib.contextmanager
def _existing(folders: list[pathlib.Path]) -> collections.abc.Iterator[None]:
    """Creates folders, and removes those that were created and stayed empty."""
    created = [path for path in folders if not path.exists()]
    for path in created:
        path.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):  # it holds files
                path.rmdir()


def _check_start(prefix: list[str]) -> None:
    """Starts a program that does nothing: if that fails, it is the sandbox that fails."""
    try:
        done = subprocess.run(
            [*prefix, "true"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        reason = " ".join(done.stderr.split()) or f"status {done.returncode}"
        failed = done.returncode != 0
    except subprocess.TimeoutExpired:
        failed, reason = True, f"no answer within {_SECONDS} s"
    if failed:
        raise RuntimeError(
            f"--{FLAG}={PROGRAM}: this system allows no sandbox ({reason[:300]}); it needs user "
            f"namespaces; use a container, or leave --{FLAG} out"
        )


def _end_of(process: subprocess.Popen) -> int:
    try:
        return process.wait()
    except KeyboardInterrupt as stop:
        number = signal.SIGINT if type(stop) is KeyboardInterrupt else signal.SIGTERM
        for pid in _grandchildren(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return process.wait()
    finally:
        process.kill()  # the sandbox ends with it


def _grandchildren(pid: int) -> list[int]:
    """Returns the processes of the command: bubblewrap's first child is the namespace's init."""
    return [command for init in _children(pid) for command in _children(init)]


def _children(pid: int) -> list[int]:
    try:
        text = pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]

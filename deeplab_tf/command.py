"""Start and end of every command: flags in, one line and an exit status out."""

import collections.abc
import enum
import errno
import functools
import logging as stdlib_logging
import pathlib
import re
import signal
import sys
import threading
import types
from typing import TypeVar

from absl import app, flags, logging

from deeplab_tf import __version__, child_process, quiet_start, sandbox
from deeplab_tf.terminal import printable, protect_terminal

_Member = TypeVar("_Member", bound=enum.Enum)
USER_ERRORS = (ValueError, OSError, RuntimeError, MemoryError)
"""RecursionError is a RuntimeError."""
RUN_AGAIN = "run the same command again"
_OURS = str(pathlib.Path(__file__).parents[1])
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_MISSING_FLAG = re.compile(r"Flag --(\w+) must have a value other than None\.")
"""In absl's message about required flags."""
_INNER_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (.*?)(?:\s*Traceback|\Z)", re.DOTALL)


class Terminated(KeyboardInterrupt):
    """SIGTERM: the command tidies up as after Ctrl-C."""


def run(
    main: collections.abc.Callable[[], int | None],
    *,
    resume: str = RUN_AGAIN,
    positional: str = "",
    outputs: sandbox.Outputs = tuple,
) -> None:
    """Parses the flags, runs `main()` and ends the process.

    The exit status is what main returns if that is an int, else 0; 1 for an error that the user
    can cause (one line on stderr), 2 for wrong flags, 130 for Ctrl-C, 143 for SIGTERM. Any other
    exception is an error of this project and keeps its traceback.

    Names from files reach the terminal without control characters.

    Args:
        main: the command.
        resume: how to go on after an interruption.
        positional: flag whose value may stand without its name, or "".
        outputs: returns the folders that it writes to, for --sandbox.
    """
    parse = functools.partial(_parse_flags, positional=positional)

    def run_main() -> int | None:
        return sandbox.run(outputs()) if sandbox.is_wanted() else main()

    app.run(lambda _: sys.exit(_guarded(run_main, resume)), flags_parser=parse)


def _terminate(number: int, frame: types.FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the command at once
    raise Terminated


def _parse_flags(argv: list[str], *, positional: str = "") -> list[str]:
    if argv[1:] == ["--version"]:
        sys.stdout.write(f"deeplab-tflite {__version__}\n")
        sys.exit(0)
    try:
        rest = _parsed(argv)
        if positional and len(rest) == 2 and not flags.FLAGS[positional].present:
            flags.FLAGS[positional].parse(rest.pop())
        if len(rest) > 1:
            raise flags.UnparsedFlagAccessError(
                f"unexpected argument {rest[1]!r}; use --flag=value"
            )
    except flags.Error as error:
        _complain(f"{_flag_error(str(error))}; --help lists the flags")
        sys.exit(2)
    quiet_start.handle_interrupts()
    protect_terminal()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    child_process.end_command_with_parent()
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_not_from_tensorflow)
    return rest


def _flag_error(text: str) -> str:
    """Returns the line for flags that cannot be parsed."""
    missing = [f"--{name}" for name in _MISSING_FLAG.findall(text)]
    return f"{', '.join(missing)} must be given" if missing else _one_line(text)


def _parsed(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # --help, which absl ends with status 1
        sys.exit(0)


def _not_from_tensorflow(record: stdlib_logging.LogRecord) -> bool:
    """Keeps TensorFlow's own messages about files and fingerprints out of the log."""
    record.msg, record.args = printable(record.getMessage()), ()
    # Installed, this project lies in site-packages itself; in a checkout, the others may lie below.
    inside = record.pathname.removeprefix(_OURS)
    return record.levelno >= stdlib_logging.WARNING or "site-packages" not in inside


def _guarded(main: collections.abc.Callable[[], int | None], resume: str = RUN_AGAIN) -> int:
    try:
        status = main()
    except KeyboardInterrupt as stop:
        _complain(f"interrupted; no incomplete file is left under its final name; {resume}")
        return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
    except USER_ERRORS as error:
        _complain(_line_of(error))
        return 1
    except Exception as error:
        if not _is_tensorflow_error(error):
            raise
        _complain(_line_of(error))
        return 1
    return status if isinstance(status, int) else 0


def _line_of(error: Exception) -> str:
    """Returns the one line for an error that the user can cause."""
    text = _one_line(str(error)) or type(error).__name__
    if isinstance(error, MemoryError) or _is_tensorflow_error(error, "ResourceExhaustedError"):
        detail = "" if text == type(error).__name__ else f" ({text[:200]})"
        return (
            f"out of memory{detail}; give a smaller --size, fewer images or --processes, or free "
            "some memory"
        )
    if isinstance(error, RecursionError):
        return f"the input is nested too deeply ({text}); it is damaged, or made to fail"
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return f"{text}; free some space (TMPDIR is the folder of temporary files)"
    if _is_tensorflow_error(error):
        inner = _INNER_ERROR.search(str(error))
        return _one_line(inner.group(1) if inner else str(error))
    return text


def enum_members(flag: str, values: list[str], *, kind: type[_Member]) -> list[_Member]:
    """Returns the enum members that a list flag names.

    Args:
        flag: name of the flag, for the message.
        values: its values; empty ones are skipped.
        kind: the enum.

    Returns:
        the members, in the order of the values.

    Raises:
        ValueError: a value that no member has.
    """
    known = [member.value for member in kind]
    values = [value for value in values if value]
    for value in values:
        if value not in known:
            raise ValueError(f"--{flag}: unknown {value!r}; known: {', '.join(known)}")
    return [kind(value) for value in values]


def _is_tensorflow_error(error: Exception, name: str = "OpError") -> bool:
    # By name, because commands that only run files do not load TensorFlow.
    return any(base.__name__ == name for base in type(error).__mro__)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {printable(text)}\n")
    sys.stderr.flush()

"""Start and end of every command: flags in, one line and an exit status out."""

import collections.abc
import enum
import functools
import logging as stdlib_logging
import re
import sys
from typing import TypeVar

from absl import app, flags, logging

_Member = TypeVar("_Member", bound=enum.Enum)
USER_ERRORS = (ValueError, OSError, RuntimeError)
_INNER_ERROR = re.compile(r"(?:\w+\.)*\w*(?:Error|Exception): (.*?)(?:\s*Traceback|\Z)", re.DOTALL)


def run(main: collections.abc.Callable[[], int | None], *, positional: str = "") -> None:
    """Parses the flags, runs `main()` and ends the process.

    The exit status is what main returns if that is an int, else 0; 1 for an error that the user
    can cause (one line on stderr), 2 for wrong flags, 130 for Ctrl-C. Any other exception is an
    error of this project and keeps its traceback.

    Args:
        main: the command.
        positional: flag whose value may stand without its name, or "".
    """
    parse = functools.partial(_parse_flags, positional=positional)
    app.run(lambda _: sys.exit(_guarded(main)), flags_parser=parse)


def _parse_flags(argv: list[str], *, positional: str = "") -> list[str]:
    try:
        rest = _parsed(argv)
        if positional and len(rest) == 2 and not flags.FLAGS[positional].present:
            flags.FLAGS[positional].parse(rest.pop())
        if len(rest) > 1:
            raise flags.UnparsedFlagAccessError(
                f"unexpected argument {rest[1]!r}; use --flag=value"
            )
    except flags.Error as error:
        _complain(f"{_one_line(str(error))}; --help lists the flags")
        sys.exit(2)
    logging.use_absl_handler()
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(_not_from_tensorflow)
    return rest


def _parsed(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except SystemExit:  # --help, which absl ends with status 1
        sys.exit(0)


def _not_from_tensorflow(record: stdlib_logging.LogRecord) -> bool:
    """Keeps TensorFlow's own messages about files and fingerprints out of the log."""
    return record.levelno >= stdlib_logging.WARNING or "site-packages" not in record.pathname


def _guarded(main: collections.abc.Callable[[], int | None]) -> int:
    try:
        status = main()
    except KeyboardInterrupt:
        _complain("interrupted; no incomplete file is left under its final name")
        return 130
    except USER_ERRORS as error:
        _complain(_one_line(str(error)) or type(error).__name__)
        return 1
    except Exception as error:
        if not _is_tensorflow_error(error):
            raise
        inner = _INNER_ERROR.search(str(error))
        _complain(_one_line(inner.group(1) if inner else str(error)))
        return 1
    return status if isinstance(status, int) else 0


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


def _is_tensorflow_error(error: Exception) -> bool:
    # By name, because commands that only run files do not load TensorFlow.
    return any(base.__name__ == "OpError" for base in type(error).__mro__)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:600]


def _complain(text: str) -> None:
    sys.stderr.write(f"error: {text}\n")
    sys.stderr.flush()

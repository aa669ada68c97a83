"""What reaches the terminal: names from files, but none of their control characters."""

import collections.abc
import re
import sys
from typing import Any

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Control characters but tab and line feed, and those that reverse the order of a line."""


def printable(text: str) -> str:
    """Writes control characters as escapes, so that no terminal obeys them.

    Args:
        text: which may hold names from a file.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found.group())[1:-1], text)


class _PlainOutput:
    """A text stream that writes control characters as escapes."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Writes a text."""
        self._stream.write(printable(text))
        return len(text)

    def writelines(self, lines: collections.abc.Iterable[str]) -> None:
        """Writes some texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_terminal() -> None:
    """From here on, standard output gets no control characters, and any name can be written.

    What the locale cannot encode is written as an escape as well.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.stdout = _PlainOutput(sys.stdout)  # type: ignore[assignment]

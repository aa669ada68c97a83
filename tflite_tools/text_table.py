"""Text tables, on the terminal and as CSV."""

import csv
from collections.abc import Iterable
from typing import Any, TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""


def align(header: list[tuple[str, str]], rows: list[list[str]]) -> str:
    """Aligns the columns of a table.

    Args:
        header: (title, "<" for left or ">" for right) of each column.
        rows: cells of each row, as many as there are columns.

    Returns:
        One line per row, after the titles.
    """
    widths = [
        max(len(title), *(len(row[index]) for row in rows)) if rows else len(title)
        for index, (title, _) in enumerate(header)
    ]
    lines = [[title for title, _ in header], *rows]
    return "\n".join(
        "  ".join(
            f"{cell:{side}{width}}"
            for cell, (_, side), width in zip(line, header, widths, strict=True)
        ).rstrip()
        for line in lines
    )


class CsvWriter:
    """Writes rows of CSV in which no text is a formula: names come from files of other people.

    Args:
        stream: that is written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._writer = csv.writer(stream)

    def writerow(self, row: Iterable[Any]) -> None:
        """Writes one row.

        Args:
            row: cells; numbers and numbers in text stay as they are.
        """
        self._writer.writerow([_plain(cell) for cell in row])


def _plain(cell: Any) -> Any:
    if not isinstance(cell, str) or not cell.startswith(_FORMULA) or cell in ("-", "+"):
        return cell
    try:
        float(cell)
    except ValueError:
        return f"'{cell}"
    return cell

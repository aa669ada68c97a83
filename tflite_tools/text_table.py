"""Text tables."""


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

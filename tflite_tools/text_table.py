"""Text tables."""


def align(header: list[tuple[str, str]], rows: list[list[str]]) -> str:
    """Columns of text; header entries are (title, "<" or ">")."""
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

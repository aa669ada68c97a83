"""Numbers as the report's readers see them."""


def percent(value: float | None) -> str:
    """Formats a fraction in percent.

    Args:
        value: the fraction, or None.
    """
    return "–" if value is None else f"{100 * value:.2f}"  # noqa: RUF001 - a dash, for readers


def points(value: float) -> str:
    """Formats a difference of fractions in percentage points, with its sign.

    Args:
        value: the difference.
    """
    return f"{100 * value:+.2f}".replace("-", "−")  # noqa: RUF001 - a minus sign, for readers


def interval(change: dict | None) -> str:
    """Formats a change with its interval, in percentage points.

    Args:
        change: difference, low and high, or None.
    """
    if not change:
        return ""
    if change["low"] is None:
        return f"{points(change['difference'])} (too few: {change['independent']})"
    return f"{points(change['difference'])} [{points(change['low'])}, {points(change['high'])}]"


def verdict(change: dict | None) -> str:
    """Returns the style of a cell: worse, better, or unsure (zero inside, or no interval).

    Args:
        change: difference, low and high, or None.
    """
    if not change or change["low"] is None or change["low"] <= 0 <= change["high"]:
        return "unsure"
    return "better" if change["low"] > 0 else "worse"

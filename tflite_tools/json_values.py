"""Values for JSON files."""

import math
from typing import Any


def finite(value: Any) -> Any:
    """Replaces infinity and NaN by None, since JSON has neither.

    Args:
        value: a value, or dicts and lists of values.

    Returns:
        a copy in which tuples are lists.
    """
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

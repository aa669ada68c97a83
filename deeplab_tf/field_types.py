"""Checks that the fields of a dataclass hold what their annotations say.

JSON from a file may hold a list where a number belongs, NaN, infinity or a number of 300 digits.
Each would pass silently until something computes with it.
"""

import dataclasses
import enum
import math
import numbers
import types
import typing
from typing import Any

LONGEST_TEXT = 65536
LARGEST_INTEGER = 2**31 - 1
"""Largest absolute value of an integer: sizes, counts and steps are stored in 32 bits elsewhere."""


def check_field_types(instance: Any, label: str = "{}") -> None:
    """Checks every field of a dataclass object; call it first in `__post_init__`.

    Integers may be NumPy's. A bool is no number, and a float must be finite. Annotations that are
    not plain types, tuples, unions or classes are not checked.

    Args:
        instance: the object.
        label: how a field is called in messages, from its name.

    Raises:
        ValueError: a field holds another type, or a number that is not finite or too large; the
            first such field is named.
    """
    for name, annotation in _annotations(type(instance)):
        value = getattr(instance, name)
        if not _fits(value, annotation):
            raise ValueError(
                f"{label.format(name)}: expected {_describe(annotation)}, got {_short(value)}"
            )


_known: dict[type, list[tuple[str, Any]]] = {}
"""Fields and annotations of each class that was checked before."""


def _annotations(kind: type) -> list[tuple[str, Any]]:
    if kind not in _known:
        hints = typing.get_type_hints(kind)
        _known[kind] = [(field.name, hints[field.name]) for field in dataclasses.fields(kind)]
    return _known[kind]


def _fits(value: Any, annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is tuple:
        return isinstance(value, tuple) and _items_fit(value, arguments)
    if annotation is bool:
        return isinstance(value, bool)
    if annotation is str:  # no path and no name holds a zero, or is that long
        return isinstance(value, str) and len(value) <= LONGEST_TEXT and "\0" not in value
    if annotation is int:
        whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return whole and abs(int(value)) <= LARGEST_INTEGER
    if annotation is float:
        return _is_finite(value)
    if annotation is type(None):
        return value is None
    kind = origin or annotation
    return isinstance(value, kind) if isinstance(kind, type) else True


def _items_fit(value: tuple, arguments: tuple) -> bool:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return all(_fits(item, arguments[0]) for item in value)
    return len(value) == len(arguments) and all(map(_fits, value, arguments))


def _is_finite(value: Any) -> bool:
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 300 digits
        return False


_NAMES = {int: "an integer of 32 bits", float: "a finite number", bool: "true or false"}
_NAMES |= {str: "text", dict: "an object", type(None): "null"}


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(one) for one in arguments)
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each {_describe(arguments[0])}"
        return f"a list of {len(arguments)}, each {_describe(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " or ".join(str(member.value) for member in annotation)
    return _NAMES.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except ValueError:  # an integer of more than 4300 digits
        return "a number that is too large"
    return text if len(text) <= 80 else f"{text[:80]}..."

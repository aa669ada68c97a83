"""Refuses a `.tflite` that would grow without end when its tables are unpacked.

A flatbuffer's offsets may share what they point to, and unpacking makes a copy for every
reference: 1500 references to one subgraph with 1500 references to one tensor take 12 KB in the
file and two million objects in memory. So everything that unpacking would visit is counted first,
as the Verifier of flatbuffers' C++ library does (flatbuffers/verifier.h: bounds, number of
tables), which its Python library lacks. The depth needs no bound: no table of the schema holds
a table of its own kind.
"""

import functools
import inspect

from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

MAX_TABLES = 100_000
"""Of a file; so many take seconds. The largest of 853 files had 1734."""
TABLE_BYTES = 8
"""A table and the reference to it take at least as many: more of them are references to one."""
OFFSET_BYTES = 4
MAX_GROWTH = 8
"""Bytes of vectors and strings by the file's size. Files share equal vectors to be smaller: the
largest growth seen in 853 files was 1.2."""

UNIONS = {
    "BuiltinOptions": schema.BuiltinOptions,
    "BuiltinOptions2": schema.BuiltinOptions2,
    "Details": schema.QuantizationDetails,
    "ArraySegments": schema.SparseIndexVector,
    "ArrayIndices": schema.SparseIndexVector,
}


class Allowance:
    """What may still be read of a flatbuffer; runs out where references share too much.

    Attributes:
        tables, bytes: that are left.
    """

    def __init__(self, size_bytes: int):
        self.tables = min(MAX_TABLES, size_bytes // TABLE_BYTES)
        self.bytes = MAX_GROWTH * size_bytes

    def take_table(self) -> None:
        """Raises ValueError where none is left."""
        self.tables -= 1
        if self.tables < 0:
            raise ValueError("more tables than its size allows: references to the same ones")

    def take_bytes(self, count: int) -> None:
        """Raises ValueError where not so many are left."""
        self.bytes -= count
        if self.bytes < 0:
            raise ValueError("more data than its size allows: references to the same vectors")


def verify(content: bytes) -> Allowance:
    """Walks through everything that `ModelT.InitFromPackedBuf` would unpack, without keeping it.

    Args:
        content: a `.tflite`.

    Returns:
        what is left.

    Raises:
        ValueError: more tables or bytes than a file of this size holds without sharing.
        IndexError, TypeError, struct.error: an offset points outside.
    """
    allowance = Allowance(len(content))
    _visit(schema.Model.GetRootAs(content, 0), allowance)
    return allowance


def _visit(table, allowance: Allowance) -> None:
    allowance.take_table()
    for field, is_vector, as_numpy in _fields(table.__class__):
        if as_numpy:
            allowance.take_bytes(getattr(getattr(table, as_numpy)(), "nbytes", 0))
        elif is_vector:
            length = getattr(table, f"{field}Length")()
            allowance.take_bytes(OFFSET_BYTES * length)
            for index in range(length):
                _visit_value(getattr(table, field)(index), allowance)
        else:
            value = getattr(table, field)()
            if isinstance(value, Table):
                value = _member(UNIONS[field], getattr(table, f"{field}Type")(), table=value)
            _visit_value(value, allowance)


def _visit_value(value, allowance: Allowance) -> None:
    if isinstance(value, bytes):
        allowance.take_bytes(len(value))
    elif hasattr(value, "_tab"):
        _visit(value, allowance)


@functools.cache
def _fields(table: type) -> tuple[tuple[str, bool, str], ...]:
    """(accessor, whether it takes an index, accessor of the whole NumPy vector or "")."""
    methods = {name for name, value in vars(table).items() if inspect.isfunction(value)} - {"Init"}
    vectors = {name for name in methods if f"{name}IsNone" in methods}
    derived = {f"{name}{end}" for name in vectors for end in ("AsNumpy", "Length", "IsNone")}
    return tuple(
        (name, name in vectors, f"{name}AsNumpy" if f"{name}AsNumpy" in methods else "")
        for name in sorted(methods - derived)
    )


def _member(union, number: int, *, table: Table):
    """The table of a union as its own class; None for a member that the schema lacks."""
    names = {value: name for name, value in vars(union).items() if not name.startswith("_")}
    name = names.get(number, "NONE")
    if name == "NONE":
        return None
    member = getattr(schema, name)()
    member.Init(table.Bytes, table.Pos)
    return member

"""Rejects a `.tflite` that would need unbounded memory when its tables are unpacked.

Offsets of a flatbuffer may point to the same object, and unpacking copies the object for every
reference: 1500 references to one subgraph with 1500 references to one tensor take 12 KB in the
file and two million objects in memory. So everything that unpacking would visit is counted first,
as the Verifier of flatbuffers' C++ library does (flatbuffers/verifier.h: bounds, number of
tables); its Python library has none. The depth needs no limit: no table of the schema contains a
table of its own kind.
"""

import functools
import inspect
from typing import Any

from ai_edge_litert import schema_py_generated as schema
from flatbuffers.table import Table

MAX_TABLES = 100_000
"""Most tables of a file; as many take seconds to unpack. The largest of 853 files had 1734."""
TABLE_BYTES = 8
"""Least size of a table with its reference; more tables than that mean shared references."""
OFFSET_BYTES = 4
MAX_GROWTH = 8
"""Most bytes of vectors and strings, as a multiple of the file size. Files share equal vectors to
be smaller: the largest ratio seen in 853 files was 1.2."""

UNIONS = {
    "BuiltinOptions": schema.BuiltinOptions,
    "BuiltinOptions2": schema.BuiltinOptions2,
    "Details": schema.QuantizationDetails,
    "ArraySegments": schema.SparseIndexVector,
    "ArrayIndices": schema.SparseIndexVector,
}


class Allowance:
    """The numbers of tables and bytes that may still be read from a flatbuffer.

    Attributes:
        tables: tables that are left.
        bytes: bytes that are left.
        last_table: position of the last table that was visited.
    """

    def __init__(self, size_bytes: int) -> None:
        self.tables = min(MAX_TABLES, size_bytes // TABLE_BYTES)
        self.bytes = MAX_GROWTH * size_bytes
        self.last_table = 0

    def take_table(self, position: int = 0) -> None:
        """Takes one table.

        Args:
            position: of the table in the file.

        Raises:
            ValueError: none is left.
        """
        self.tables -= 1
        self.last_table = max(self.last_table, position)
        if self.tables < 0:
            raise ValueError("more tables than its size allows: references to the same ones")

    def take_bytes(self, count: int) -> None:
        """Takes some bytes.

        Args:
            count: number of bytes.

        Raises:
            ValueError: fewer are left.
        """
        self.bytes -= count
        if self.bytes < 0:
            raise ValueError("more data than its size allows: references to the same vectors")


def verify(content: bytes) -> Allowance:
    """Visits everything that `ModelT.InitFromPackedBuf` would unpack, without keeping it.

    Args:
        content: a `.tflite`.

    Returns:
        The allowance that is left.

    Raises:
        ValueError: more tables or bytes than a file of this size may hold.
        IndexError: an offset points outside the file.
        TypeError: an offset points outside the file.
        struct.error: an offset points outside the file.
    """
    allowance = Allowance(len(content))
    _visit(schema.Model.GetRootAs(content, 0), allowance)
    return allowance


def _visit(table: Any, allowance: Allowance) -> None:
    allowance.take_table(table._tab.Pos)
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


def _visit_value(value: Any, allowance: Allowance) -> None:
    if isinstance(value, bytes):
        allowance.take_bytes(len(value))
    elif hasattr(value, "_tab"):
        _visit(value, allowance)


@functools.cache
def _fields(table: type) -> tuple[tuple[str, bool, str], ...]:
    """Returns (accessor, whether it takes an index, accessor of the whole NumPy vector or "")."""
    methods = {name for name, value in vars(table).items() if inspect.isfunction(value)} - {"Init"}
    vectors = {name for name in methods if f"{name}IsNone" in methods}
    derived = {f"{name}{end}" for name in vectors for end in ("AsNumpy", "Length", "IsNone")}
    return tuple(
        (name, name in vectors, f"{name}AsNumpy" if f"{name}AsNumpy" in methods else "")
        for name in sorted(methods - derived)
    )


def _member(union: type, number: int, *, table: Table) -> Any:
    """Returns the table of a union as its own class; None for a member that the schema lacks."""
    names = {value: name for name, value in vars(union).items() if not name.startswith("_")}
    name = names.get(number, "NONE")
    if name == "NONE":
        return None
    member = getattr(schema, name)()
    member.Init(table.Bytes, table.Pos)
    return member

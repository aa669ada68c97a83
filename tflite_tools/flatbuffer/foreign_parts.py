"""Names what makes a file something else than one chain of tensor operators, and what can be done.

Control flow and the filling of tables and variables run further subgraphs; strings, hash tables,
variables and operators of other programs have no layer that computes them.
"""

from collections.abc import Iterable
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.operators import NAMES

_UNROLLED = "convert the network without it (a fixed number of steps, one branch)"
_NO_STATE = "convert an inference function without state: constants in their place"
_CALLS = {"IF": _UNROLLED, "WHILE": _UNROLLED, "CALL": _UNROLLED, "CALL_ONCE": _NO_STATE}
"""{operator that runs another subgraph: remedy}."""
_TABLES = ("HASHTABLE", "HASHTABLE_FIND", "HASHTABLE_IMPORT", "HASHTABLE_SIZE", "HASHTABLE_LOOKUP")
_VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")
_BY_KIND = {
    **dict.fromkeys(_TABLES, f"a hash table; {_NO_STATE}"),
    **dict.fromkeys(_VARIABLES, f"a variable that keeps its value between runs; {_NO_STATE}"),
    "TOPK_V2": "it sorts, which no layer does; end the network before it",
    "NON_MAX_SUPPRESSION_V4": "it selects boxes; end the network before it",
    "NON_MAX_SUPPRESSION_V5": "it selects boxes; end the network before it",
}
_FOREIGN_TYPES = {"STRING": "it works on strings", "RESOURCE": "it works on a handle of a resource"}


def why_foreign(kind: str, types: Iterable[str]) -> str:
    """Returns why no layer computes an operator; "" where its kind and its tensors tell nothing.

    Args:
        kind: name in the schema, or "CUSTOM:<name>".
        types: type names of its tensors.
    """
    if kind in _BY_KIND:
        return _BY_KIND[kind]
    if kind.startswith("CUSTOM:Flex"):
        return (
            "an operator of TensorFlow itself; convert with built-in operators alone "
            "(OpsSet.TFLITE_BUILTINS)"
        )
    if kind.startswith("CUSTOM:"):
        return "a custom operator, which only the program that it was made for computes"
    return next((text for name, text in _FOREIGN_TYPES.items() if name in types), "")


def has_foreign_types(types: Iterable[str]) -> bool:
    """Returns whether some tensors are no numbers.

    Args:
        types: names in the schema.
    """
    return not _FOREIGN_TYPES.keys().isdisjoint(types)


def why_several_subgraphs(model: schema.ModelT) -> str:
    """Returns what the subgraphs of a file are for, and what can be done.

    Args:
        model: a file with several subgraphs, or with none.
    """
    subgraphs = model.subgraphs or []
    for position, operator in enumerate(_items(subgraphs[0].operators) if subgraphs else []):
        kind = _kind(model, operator)
        if kind in _CALLS:
            tensors = [*_items(operator.outputs), *_items(operator.inputs)]
            name = subgraphs[0].tensors[int(tensors[0])].name if tensors else b""
            filled = _filled_by(model, operator) if kind == "CALL_ONCE" else ""
            what = f", which fills {filled}" if filled else ""
            return (
                f"operator {position}, {kind} ({(name or b'').decode(errors='replace')!r}), runs "
                f"another subgraph{what}; this is not supported; {_CALLS[kind]}"
            )
    keys = [(s.signatureKey or b"").decode(errors="replace") for s in model.signatureDefs or []]
    if len(keys) > 1:
        return (
            f"{len(subgraphs)} subgraphs, for the signatures {', '.join(keys)}; only files with "
            f"one are supported; convert one of them (signature_keys=[{keys[0]!r}])"
        )
    return f"{len(subgraphs)} subgraphs; only files with one are supported; convert one function"


def _filled_by(model: schema.ModelT, operator: schema.OperatorT) -> str:
    """Returns what the subgraph of a CALL_ONCE fills."""
    called = model.subgraphs[operator.builtinOptions.initSubgraphIndex]
    kinds = {_kind(model, inner) for inner in _items(called.operators)}
    if not kinds.isdisjoint(_TABLES):
        return "a hash table"
    return "a variable" if not kinds.isdisjoint(_VARIABLES) else ""


def _kind(model: schema.ModelT, operator: schema.OperatorT) -> str:
    code = model.operatorCodes[operator.opcodeIndex]
    return NAMES.get(max(code.builtinCode, code.deprecatedBuiltinCode), "")


def _items(vector: Any) -> list[Any]:
    return [] if vector is None else list(vector)

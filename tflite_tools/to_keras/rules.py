"""The registry of import rules: each says how one kind of operator becomes layers.

Which inputs carry data stands in the operator table (`tflite_tools.flatbuffer.operators`); so does
the function of an operator that computes on whole tensors and needs no rule of its own.
"""

from collections.abc import Callable

from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import OPERATORS, traits
from tflite_tools.to_keras.view import OperatorView, Step, is_constant

Rule = Callable[[OperatorView], list[Step]]
"""View of an operator -> steps, none where the value passes unchanged.

Raises ValueError with "it ..." or "its ..." for what cannot be expressed.
"""
RULES: dict[str, Rule] = {}
"""{kind of operator: its rule}; filled by `rule`."""


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Registers a function as the rule of some kinds of operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def rule_of(kind: str) -> Rule | None:
    """The rule of an operator; None where it cannot be imported."""
    if kind in RULES:
        return RULES[kind]
    return _tensor_function if traits(kind).function else None


def supported_kinds() -> list[str]:
    """Kinds of operators that can be imported, sorted."""
    functions = [kind for kind, row in OPERATORS.items() if row.function]
    return sorted({*RULES, *functions})


def data_inputs(graph: Graph, operator: Operator) -> list[int]:
    """Tensor indices of the inputs that carry data.

    Raises:
        IndexError: the operator has fewer inputs than it needs.
    """
    slot = traits(operator.kind).data
    if slot is None:
        return [i for i in operator.inputs if i >= 0 and not is_constant(graph, i)]
    return [operator.inputs[slot]]


def _tensor_function(view: OperatorView) -> list[Step]:
    """One layer that applies the table's function; constant operands are its weights."""
    slots = [slot for slot in range(len(view.operator.inputs)) if view.is_constant(slot)]
    constants = {f"constant{slot}": view.floats(slot) for slot in slots}
    settings = {
        "function": traits(view.operator.kind).function,
        "constants": [[slot, list(view.floats(slot).shape)] for slot in slots],
    }
    step = Step("tensor_function", settings, weights=constants, suffix="_linear")
    fused = view.fused_activation() if view.operator.options is not None else []
    return [step, *fused]

"""Registry of import rules: each converts one kind of operator to layers.

The operator table (`tflite_tools.flatbuffer.operators`) specifies which inputs carry data, and the
function of an operator that needs no rule because one layer computes it from whole tensors.
"""

from collections.abc import Callable

import numpy as np

from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import traits
from tflite_tools.to_keras.view import OperatorView, Step, is_constant

Rule = Callable[[OperatorView], list[Step]]
"""View of an operator -> steps; no steps where the value passes unchanged.

A rule raises ValueError with "it ..." or "its ..." for an operator that cannot be expressed.
"""
RULES: dict[str, Rule] = {}
"""{kind of operator: its rule}; filled by `rule`."""


_PRODUCTS = ("FULLY_CONNECTED",)
"""Operators whose weights may be computed: attention multiplies two computed matrices so."""


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Returns a decorator that registers a function as the rule of some kinds of operators.

    Args:
        *kinds: names in the schema.
    """

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register


def rule_of(kind: str) -> Rule | None:
    """Returns the rule of an operator; None where it cannot be imported.

    Args:
        kind: name in the schema.
    """
    if kind in RULES:
        return RULES[kind]
    return _tensor_function if traits(kind).function else None


def data_inputs(graph: Graph, operator: Operator) -> list[int]:
    """Returns the tensor indices of the inputs that carry data.

    Args:
        graph: the file.
        operator: the operator.

    Raises:
        IndexError: the operator has fewer inputs than it needs.
    """
    slot = traits(operator.kind).data
    if slot is None or operator.kind in _PRODUCTS:
        return [i for i in operator.inputs if i >= 0 and not is_constant(graph, i)]
    return [operator.inputs[slot]]


def _tensor_function(view: OperatorView) -> list[Step]:
    """Returns one layer that applies the table's function; constant inputs are its weights."""
    slots = [slot for slot in range(len(view.operator.inputs)) if view.is_constant(slot)]
    constants = {f"constant{slot}": np.atleast_1d(view.floats(slot)) for slot in slots}
    settings = {
        "function": traits(view.operator.kind).function,
        "constants": [[slot, list(constants[f"constant{slot}"].shape)] for slot in slots],
    }
    step = Step("tensor_function", settings, weights=constants, suffix="_linear")
    fuses = hasattr(view.operator.options, "fusedActivationFunction")
    fused = view.fused_activation() if fuses else []
    return [step, *fused]

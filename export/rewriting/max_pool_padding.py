"""Padding of max pools with minus infinity, as PyTorch has it, becomes padding with zero.

A value that never wins a maximum has no place in an integer file. Behind a ReLU zero never wins
over more than an equal value, so the function is the same.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor

_NOT_NEGATIVE = (
    schema.ActivationFunctionType.RELU,
    schema.ActivationFunctionType.RELU6,
)

_LOWEST = np.finfo(np.float32).min
"""What converters write for minus infinity, if they do not keep it."""


def pad_pools_with_zero(editor: Editor) -> int:
    """Replaces the padding of max pools behind a ReLU.

    Args:
        editor: of the file, changed in place.

    Returns:
        How many were replaced.
    """
    producers = {int(index): op for op in editor.graph.operators for index in op.outputs}
    replaced = 0
    for position, operator in enumerate(list(editor.graph.operators)):
        if editor.kind(operator) != "PADV2":
            continue
        value = editor.constant(int(operator.inputs[2]))
        readers = [
            op for op in editor.graph.operators if operator.outputs[0] in map(int, op.inputs)
        ]
        pools = all(editor.kind(reader) == "MAX_POOL_2D" for reader in readers)
        if value is None or not pools or not (value <= _LOWEST).all():
            continue
        if not _is_not_negative(editor, producers.get(int(operator.inputs[0]))):
            continue
        editor.graph.operators[position] = editor.new_operator(
            "PAD",
            [int(index) for index in operator.inputs[:2]],
            outputs=[int(index) for index in operator.outputs],
            options=schema.PadOptionsT(),
        )
        replaced += 1
    return replaced


def _is_not_negative(editor: Editor, operator: schema.OperatorT | None) -> bool:
    if operator is None:
        return False
    fused = getattr(operator.builtinOptions, "fusedActivationFunction", None)
    return fused in _NOT_NEGATIVE or editor.kind(operator) in ("RELU", "RELU6", "LOGISTIC")

"""Replaces the resizes of an integer `.tflite` by forms that the Edge TPU compiler maps.

    RESIZE_BILINEAR 1x1 -> h x w      becomes    TILE              (the same function)
    RESIZE_BILINEAR by 4 (by 8, ...)  becomes    resizes by 2      (not exactly the same: each step
                                                                    interpolates the step before)

The compiler maps bilinear resizes of at most 2x per axis (observed, not documented), and TILE
although its list of operators lacks it (observed in the official Cityscapes model).
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor


def fit_edgetpu(content: bytes) -> tuple[bytes, list[str]]:
    """Rewrites the resizes of a file.

    Args:
        content: an int8 `.tflite` with one subgraph.

    Returns:
        the new file, and one line for each resize that was changed or could not be changed.
    """
    editor = Editor(content)
    operators, report = [], []
    for operator in editor.operators():
        made, line = [operator], ""
        if editor.kind(operator) == "RESIZE_BILINEAR":
            made, line = _fitted(editor, operator)
        operators += made
        report += [line] if line else []
    editor.graph.operators = operators
    return editor.to_bytes(), report


def _fitted(editor: Editor, operator: schema.OperatorT) -> tuple[list[schema.OperatorT], str]:
    """Returns the operators that replace a resize, and a line for the log."""
    before, after = (
        _size(editor.tensor(index)) for index in (operator.inputs[0], operator.outputs[0])
    )
    name = f"resize {before[0]}x{before[1]} to {after[0]}x{after[1]}"
    doublings = _doublings(before, after)
    if before == (1, 1):
        return [_tile(editor, operator, size=after)], f"{name}: a TILE"
    if doublings > 1:
        return _doubled(
            editor, operator, before=before, count=doublings
        ), f"{name}: {doublings} resizes by 2"
    if doublings == 1:
        return [operator], ""
    return [operator], f"{name}: unchanged; only factors 2, 4, 8, ... can be split"


def _size(tensor: schema.TensorT) -> tuple[int, int]:
    return int(tensor.shape[1]), int(tensor.shape[2])


def _doublings(before: tuple[int, int], after: tuple[int, int]) -> int:
    """Returns n where both axes grow by 2^n; 0 for anything else."""
    factor, rest = divmod(after[0], before[0])
    power = factor.bit_length() - 1
    if rest or factor != 1 << power or (before[0] * factor, before[1] * factor) != after:
        return 0
    return power


def _tile(editor: Editor, operator: schema.OperatorT, *, size: tuple[int, int]) -> schema.OperatorT:
    multiples = editor.add_constant("tile_multiples", np.array([1, *size, 1], "<i4"))
    inputs = [int(operator.inputs[0]), multiples]
    return editor.new_operator(
        "TILE", inputs, outputs=operator.outputs, options=schema.TileOptionsT()
    )


def _doubled(
    editor: Editor, operator: schema.OperatorT, *, before: tuple[int, int], count: int
) -> list[schema.OperatorT]:
    """Returns the same operator `count` times, each doubling height and width."""
    final, current, made = int(operator.outputs[0]), int(operator.inputs[0]), []
    version = editor.model.operatorCodes[operator.opcodeIndex].version
    for step in range(1, count + 1):
        height, width = (size << step for size in before)
        output = (
            final
            if step == count
            else _between(editor, final, height=height, width=width, step=step)
        )
        size = editor.add_constant("resize_size", np.array([height, width], "<i4"))
        made.append(
            editor.new_operator(
                "RESIZE_BILINEAR",
                [current, size],
                outputs=[output],
                version=version,
                options=operator.builtinOptions,
            )
        )
        current = output
    return made


def _between(editor: Editor, like: int, *, height: int, width: int, step: int) -> int:
    old = editor.tensor(like)
    shape = [1, height, width, int(old.shape[3])]
    return editor.add_tensor(
        f"{editor.name(like)}_x{2**step}",
        shape,
        kind=old.type,
        quantization=old.quantization,
        shape_signature=shape,
    )

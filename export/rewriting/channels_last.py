"""Makes a file take images as cameras give them, [1, height, width, channels]: no outer transposes.

PyTorch and ONNX compute with [batch, channels, height, width]. Their converters leave a TRANSPOSE
at the input, at the outputs, or pairs between that undo each other, also across a RESHAPE: where a
transformer makes rows of an image, and an image of rows.
"""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.layout import TO_CHANNELS_FIRST, TO_CHANNELS_LAST

_MOST_CHANNELS = 4
"""Of an image; a last axis that is longer is a width."""
_UNARY = (
    *("RELU", "RELU6", "RELU_N1_TO_1", "RELU_0_TO_1", "LOGISTIC", "TANH", "HARD_SWISH", "ELU"),
    *("GELU", "LEAKY_RELU", "EXP", "ABS", "NEG", "SQRT", "RSQRT", "SQUARE"),
)
_BINARY = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM", "POW", "SQUARED_DIFFERENCE")


def is_channels_first(shape: tuple[int, ...]) -> bool:
    """Returns whether an image of this shape is [1, channels, height, width].

    Args:
        shape: with the batch.
    """
    return len(shape) == 4 and shape[1] <= _MOST_CHANNELS < shape[3]


def to_channels_last(editor: Editor) -> list[str]:
    """Removes transposes that undo each other, and those at the input and at the outputs.

    Args:
        editor: of the file, changed in place.

    Returns:
        What was changed, one line each.
    """
    before = len(editor.operators("TRANSPOSE"))
    changes = []
    if is_channels_first(_shape(editor, int(editor.graph.inputs[0]))):
        _transpose_input(editor)
        changes.append("the input takes [1, height, width, channels] instead of channels first")
    while _move_one_down(editor):
        pass
    _cancel_pairs(editor)
    _cancel_across_reshapes(editor)
    changes += _outputs_to_channels_last(editor)
    after = len(editor.operators("TRANSPOSE"))
    if after != before:
        changes.append(f"transposes: {before} before, {after} now")
    return changes


def transpose_output(editor: Editor, position: int) -> None:
    """Appends a transpose of one output from channels first to channels last.

    Args:
        editor: of the file, changed in place.
        position: of the output in the file's list.
    """
    old = int(editor.graph.outputs[position])
    shape = [int(editor.tensor(old).shape[axis]) for axis in TO_CHANNELS_LAST]
    new = editor.add_tensor(
        f"{editor.name(old)}_channels_last", shape, kind=editor.tensor(old).type
    )
    editor.graph.operators = [
        *editor.graph.operators,
        _transpose(editor, old, target=new, permutation=TO_CHANNELS_LAST),
    ]
    _set_output(editor, position, new)


def _shape(editor: Editor, index: int) -> tuple[int, ...]:
    shape = editor.tensor(index).shape
    return () if shape is None else tuple(int(size) for size in shape)


def _permutation(editor: Editor, operator: schema.OperatorT) -> tuple[int, ...]:
    """Returns the permutation of a TRANSPOSE; () of anything else."""
    if editor.kind(operator) != "TRANSPOSE":
        return ()
    values = editor.constant(int(operator.inputs[1]))
    return () if values is None else tuple(int(value) for value in values)


def _undoes(second: tuple[int, ...], first: tuple[int, ...]) -> bool:
    return len(first) == len(second) and all(first[axis] == i for i, axis in enumerate(second))


def _producers(editor: Editor) -> dict[int, schema.OperatorT]:
    return {int(index): op for op in editor.graph.operators for index in op.outputs}


def _readers(editor: Editor, index: int) -> list[schema.OperatorT]:
    return [op for op in editor.graph.operators if index in [int(i) for i in op.inputs]]


def _replace_reads(editor: Editor, old: int, *, new: int) -> None:
    for operator in editor.graph.operators:
        if old in (read := [int(index) for index in operator.inputs]):
            operator.inputs = [new if index == old else index for index in read]


def _cancel_pairs(editor: Editor) -> None:
    producers = _producers(editor)
    outputs = {int(index) for index in editor.graph.outputs}
    for operator in editor.operators("TRANSPOSE"):
        first = producers.get(int(operator.inputs[0]))
        if first is None or int(operator.outputs[0]) in outputs:
            continue
        if _undoes(_permutation(editor, operator), _permutation(editor, first)):
            _replace_reads(editor, int(operator.outputs[0]), new=int(first.inputs[0]))
    editor.drop_unread_operators()


def _cancel_across_reshapes(editor: Editor) -> None:
    """Replaces TRANSPOSE, RESHAPE, TRANSPOSE by one RESHAPE where the values keep their order."""
    for second in editor.operators("TRANSPOSE"):
        producers = _producers(editor)
        reshape = producers.get(int(second.inputs[0]))
        if reshape is None or editor.kind(reshape) != "RESHAPE":
            continue
        first = producers.get(int(reshape.inputs[0]))
        if first is None or not _keep_order(editor, first, reshape=reshape, second=second):
            continue
        end = int(second.outputs[0])
        sizes = np.array(_shape(editor, end), "<i4")
        shape = editor.add_constant(f"{editor.name(end)}_shape", sizes)
        plain = editor.new_operator(
            "RESHAPE",
            [int(first.inputs[0]), shape],
            outputs=[end],
            options=schema.ReshapeOptionsT(),
        )
        editor.graph.operators = [plain if op is second else op for op in editor.graph.operators]
    editor.drop_unread_operators()


def _keep_order(
    editor: Editor,
    first: schema.OperatorT,
    *,
    reshape: schema.OperatorT,
    second: schema.OperatorT,
) -> bool:
    before, after = _permutation(editor, first), _permutation(editor, second)
    source = _shape(editor, int(first.inputs[0]))
    between = _shape(editor, int(reshape.outputs[0]))
    fits = len(before) == len(source) and len(after) == len(between)
    if not before or not fits or min((*source, *between)) < 1:
        return False
    places = np.arange(np.prod(source), dtype=np.int32)
    moved = places.reshape(source).transpose(before).reshape(between).transpose(after)
    return np.array_equal(moved.ravel(), places)


def _transpose_input(editor: Editor) -> None:
    """Puts a transpose behind a new input with the channels last."""
    old = int(editor.graph.inputs[0])
    tensor, name = editor.tensor(old), editor.name(old)
    shape = [int(tensor.shape[axis]) for axis in TO_CHANNELS_LAST]
    new = editor.add_tensor(name, shape, kind=tensor.type)
    first = _transpose(editor, new, target=old, permutation=TO_CHANNELS_FIRST)
    editor.graph.operators = [first, *editor.graph.operators]
    tensor.name = f"{name}_channels_first".encode()
    editor.graph.inputs = [new if int(i) == old else int(i) for i in editor.graph.inputs]
    for signature in editor.model.signatureDefs or []:
        for entry in signature.inputs or []:
            if entry.tensorIndex == old:
                entry.tensorIndex = new


def _move_one_down(editor: Editor) -> bool:
    """Swaps one transpose to channels first with the element-wise operator that alone reads it.

    So a transpose gets to the one that undoes it, or to an output.
    """
    outputs = {int(index) for index in editor.graph.outputs}
    for first in editor.operators("TRANSPOSE"):
        index = int(first.outputs[0])
        readers = _readers(editor, index)
        if _permutation(editor, first) != TO_CHANNELS_FIRST or index in outputs:
            continue
        if len(readers) == 1 and _is_element_wise(editor, readers[0], index=index):
            _swap(editor, first, second=readers[0])
            return True
    return False


def _is_element_wise(editor: Editor, operator: schema.OperatorT, *, index: int) -> bool:
    kind = editor.kind(operator)
    if kind in _UNARY:
        return True
    others = [int(i) for i in operator.inputs if int(i) != index]
    return (
        kind in _BINARY
        and len(others) == 1
        and editor.constant(others[0]) is not None
        and len(_shape(editor, others[0])) in (0, 4)
    )


def _swap(editor: Editor, first: schema.OperatorT, *, second: schema.OperatorT) -> None:
    source, between, end = int(first.inputs[0]), int(first.outputs[0]), int(second.outputs[0])
    tensor = editor.tensor(end)
    shape = [int(tensor.shape[axis]) for axis in TO_CHANNELS_LAST]
    new = editor.add_tensor(
        f"{editor.name(end)}_channels_last",
        shape,
        kind=tensor.type,
        quantization=tensor.quantization,
    )
    inputs = []
    for index in map(int, second.inputs):
        constant = editor.constant(index) if index != between else None
        if constant is not None and constant.ndim == 4 and constant.size > 1:
            turned = np.ascontiguousarray(constant.transpose(TO_CHANNELS_LAST))
            index = editor.add_constant(f"{editor.name(index)}_channels_last", turned)
        inputs.append(source if index == between else index)
    second.inputs, second.outputs = inputs, [new]
    first.inputs, first.outputs = [new, int(first.inputs[1])], [end]
    order = list(editor.graph.operators)
    # By identity: the schema's objects have no order of their own.
    places = [next(i for i, op in enumerate(order) if op is one) for one in (first, second)]
    order[places[0]], order[places[1]] = second, first
    editor.graph.operators = order


def _outputs_to_channels_last(editor: Editor) -> list[str]:
    changes = []
    for position, index in enumerate(editor.graph.outputs):
        operator = _producers(editor).get(int(index))
        if operator is None or _permutation(editor, operator) != TO_CHANNELS_FIRST:
            continue
        before = int(operator.inputs[0])
        if before not in _producers(editor):  # an input or a constant is no output
            continue
        _set_output(editor, position, before)
        changes.append(f"output {position} gives the channels last")
    editor.drop_unread_operators()
    return changes


def _transpose(
    editor: Editor, source: int, *, target: int, permutation: tuple[int, ...]
) -> schema.OperatorT:
    name = f"{editor.name(target)}_permutation"  # of its own: some quantizers go by names
    axes = editor.add_constant(name, np.array(permutation, "<i4"))
    return editor.new_operator(
        "TRANSPOSE", [source, axes], outputs=[target], options=schema.TransposeOptionsT()
    )


def _set_output(editor: Editor, position: int, new: int) -> None:
    old = int(editor.graph.outputs[position])
    editor.graph.outputs = [
        new if place == position else int(index) for place, index in enumerate(editor.graph.outputs)
    ]
    for signature in editor.model.signatureDefs or []:
        for entry in signature.outputs or []:
            if entry.tensorIndex == old:
                entry.tensorIndex = new

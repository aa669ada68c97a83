"""Random edits of a file change what they name, and no byte of anything else."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.paths import CAMVID
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.graph import read_graph

EXAMPLES = settings(
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
EDITS = st.lists(st.tuples(st.integers(0, 65), st.integers(-1000, 1000)), min_size=1, max_size=4)


@pytest.fixture(scope="module")
def content():
    return (CAMVID / "int8.tflite").read_bytes()


def convolutions(editor):
    return editor.operators("CONV_2D", "DEPTHWISE_CONV_2D")


@EXAMPLES
@given(EDITS)
def test_edited_biases_change_and_nothing_else(content, tmp_path_factory, edits):
    folder = tmp_path_factory.mktemp("edits")
    editor = Editor(content)
    operators = convolutions(editor)
    expected = {}
    for place, shift in edits:
        operator = operators[place % len(operators)]
        values = editor.constant(operator.inputs[2]) + np.int32(shift)
        editor.replace_constant(operator, 2, values=values)
        expected[editor.operators().index(operator)] = values
    (folder / "before.tflite").write_bytes(content)
    (folder / "after.tflite").write_bytes(editor.to_bytes())
    before, after = (read_graph(folder / f"{name}.tflite") for name in ("before", "after"))
    assert [operator.kind for operator in after.operators] == [o.kind for o in before.operators]
    for number, (old, new) in enumerate(zip(before.operators, after.operators, strict=True)):
        for position, (a, b) in enumerate(zip(old.inputs, new.inputs, strict=True)):
            first, second = before.tensors[a], after.tensors[b]
            assert (first.name, first.shape, first.type_name) == (
                second.name,
                second.shape,
                second.type_name,
            )
            if number in expected and position == 2:
                np.testing.assert_array_equal(second.data, expected[number])
            elif first.data is not None:
                np.testing.assert_array_equal(first.data, second.data)


@EXAMPLES
@given(EDITS)
def test_an_edit_and_its_reverse_give_the_file_back(content, edits):
    there = Editor(content)
    operators = convolutions(there)
    for place, shift in edits:
        operator = operators[place % len(operators)]
        bias = there.constant(operator.inputs[2])
        there.replace_constant(operator, 2, values=bias + np.int32(shift))
    back = Editor(there.to_bytes())
    operators = convolutions(back)
    for place, shift in reversed(edits):
        operator = operators[place % len(operators)]
        bias = back.constant(operator.inputs[2])
        back.replace_constant(operator, 2, values=bias - np.int32(shift))
    assert back.to_bytes() == Editor(content).to_bytes()

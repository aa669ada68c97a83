"""Tests of the editor: unrelated bytes do not change, and independent edits commute."""

import io
import zipfile

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from export.rewriting.edgetpu_resizes import fit_edgetpu
from tests.paths import CAMVID
from tflite_tools.flatbuffer.editor import Editor, symmetric
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, OPERATORS, traits

INT8 = CAMVID / "int8.tflite"


@pytest.fixture(scope="module")
def content():
    return INT8.read_bytes()


def with_biases(content: bytes, shift: int = 1, layers: int = 3) -> bytes:
    editor = Editor(content)
    for operator in editor.operators("CONV_2D")[:layers]:
        bias = editor.constant(operator.inputs[2])
        editor.replace_constant(operator, 2, values=bias + shift)
    return editor.to_bytes()


def with_scaled_input(content: bytes) -> bytes:
    """Inserts a DEQUANTIZE and a QUANTIZE, with new tensors, after the first addition."""
    editor = Editor(content)
    add = editor.operators("ADD")[0]
    shape, output = editor.tensor(add.outputs[0]).shape, int(add.outputs[0])
    inner = editor.add_tensor(
        "inner", shape, kind=schema.TensorType.INT8, quantization=editor.tensor(output).quantization
    )
    real = editor.add_tensor("real", shape, kind=schema.TensorType.FLOAT32)
    add.outputs = [inner]
    place = editor.operators().index(add) + 1
    editor.graph.operators[place:place] = [
        editor.new_operator("DEQUANTIZE", [inner], outputs=[real]),
        editor.new_operator("QUANTIZE", [real], outputs=[output]),
    ]
    return editor.to_bytes()


def with_resizes(content: bytes) -> bytes:
    return fit_edgetpu(content)[0]


EDITS = (with_biases, with_scaled_input, with_resizes)


@pytest.mark.parametrize("first", EDITS)
@pytest.mark.parametrize("second", EDITS)
def test_independent_edits_give_the_same_bytes_in_either_order(content, first, second):
    if first is second:
        pytest.skip("the same edit twice")
    assert second(first(content)) != content
    assert second(first(content)) == first(second(content))


def test_edits_in_one_editor_commute_too(content):
    def edited(order):
        editor = Editor(content)
        for name in order:
            values = np.arange(len(name), dtype=np.int32)
            tensor = editor.add_constant(name, values)
            made = editor.add_tensor(f"{name}_out", [1], kind=schema.TensorType.INT32)
            target = {"first": 0, "second": 5}[name]
            operator = editor.graph.operators[target]
            extra = editor.new_operator("TILE", [tensor, tensor], outputs=[made])
            operator.inputs = [*operator.inputs, made]
            editor.graph.operators.append(extra)
        editor.graph.operators[-2:] = sorted(
            editor.graph.operators[-2:], key=lambda op: editor.name(op.inputs[0])
        )
        return editor.to_bytes()

    assert edited(["first", "second"]) == edited(["second", "first"])


def test_only_the_replaced_bytes_change(content):
    changed = with_biases(content, layers=1)
    differing = np.flatnonzero(np.frombuffer(changed, np.uint8) != np.frombuffer(content, np.uint8))
    editor = Editor(content)
    bias = editor.constant(editor.operators("CONV_2D")[0].inputs[2])
    assert len(changed) == len(content)
    assert 0 < np.ptp(differing) < bias.nbytes


def test_a_constant_with_two_readers_is_replaced_for_one_of_them(content):
    editor = Editor(content)
    first, second = editor.operators("CONV_2D")[:2]
    second.inputs = [second.inputs[0], second.inputs[1], first.inputs[2]]
    old = editor.constant(first.inputs[2])
    editor.replace_constant(first, 2, values=old + 7)
    assert (editor.constant(first.inputs[2]) == old + 7).all()
    assert (editor.constant(second.inputs[2]) == old).all()


def test_the_zip_archive_behind_the_graph_is_kept(content):
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as packed:
        packed.writestr("labels.txt", "road\n")
    with zipfile.ZipFile(io.BytesIO(with_scaled_input(stream.getvalue()))) as packed:
        assert packed.read("labels.txt") == b"road\n"


def test_a_file_is_built_from_an_empty_model(tmp_path):
    editor = Editor()
    image = editor.add_tensor("image", [1, 2, 2, 1], kind=schema.TensorType.INT8)
    editor.tensor(image).quantization = symmetric(0.5)
    output = editor.add_tensor("real", [1, 2, 2, 1], kind=schema.TensorType.FLOAT32)
    editor.graph.operators = [editor.new_operator("DEQUANTIZE", [image], outputs=[output])]
    editor.graph.inputs, editor.graph.outputs = [image], [output]
    path = tmp_path / "made.tflite"
    path.write_bytes(editor.to_bytes())
    graph = read_graph(path)
    assert [operator.kind for operator in graph.operators] == ["DEQUANTIZE"]
    assert float(graph.tensors[graph.inputs[0]].quantization.scale[0]) == 0.5


def test_unread_operators_and_their_constants_are_removed(content):
    editor = Editor(content)
    unread = editor.add_tensor("unread", [1], kind=schema.TensorType.FLOAT32)
    weights = editor.add_constant("weights", np.zeros(1000, np.float32))
    editor.graph.operators.append(editor.new_operator("RELU", [weights], outputs=[unread]))
    editor.drop_unread_operators()
    result = Editor(editor.to_bytes())
    kinds = [result.kind(operator) for operator in result.operators()]
    assert kinds == [Editor(content).kind(operator) for operator in Editor(content).operators()]
    names = [tensor.name for tensor in result.graph.tensors]
    assert b"unread" not in names
    assert b"weights" not in names


def test_an_unedited_file_is_unchanged(content):
    assert Editor(content).to_bytes() == content


def test_the_table_names_operators_of_the_schema():
    for kind, row in OPERATORS.items():
        assert kind.startswith("CUSTOM:") or hasattr(schema.BuiltinOperator, kind)
        assert row.bias is None or row.may_omit(row.bias)
    assert set(CONVOLUTIONS) == {
        *("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED")
    }
    # schema.fbs: TRANSPOSE_CONV(output shape, weights, data, bias).
    assert (traits("TRANSPOSE_CONV").data, traits("TRANSPOSE_CONV").bias) == (2, 3)


def test_intermediates_and_old_metadata_are_renumbered_too(content):
    """An integer LSTM names tensors in `intermediates`, old files name buffers of metadata."""
    editor = Editor(content)
    inner = editor.add_tensor("inner", [1], kind=schema.TensorType.FLOAT32)
    editor.operators("ADD")[0].intermediates = [inner]
    old = editor.add_constant("old metadata", np.array([7], np.int32))
    editor.model.metadataBuffer = [editor.tensor(old).buffer]
    result = Editor(with_resizes(editor.to_bytes()))
    (index,) = result.operators("ADD")[0].intermediates
    assert result.name(index) == "inner"
    (buffer,) = result.model.metadataBuffer
    assert bytes(result.model.buffers[buffer].data) == np.array([7], "<i4").tobytes()

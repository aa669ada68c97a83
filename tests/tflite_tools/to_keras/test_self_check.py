"""Tests that every import compares the file with its network."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.to_keras import convert as to_keras
from tflite_tools.to_keras import file_tensors, self_check
from tflite_tools.to_keras.importer import import_graph
from tflite_tools.to_keras.pictures import built_in_pictures
from tflite_tools.to_keras.rules import RULES
from tflite_tools.to_keras.view import Step

_KERNEL = tf.constant(np.random.default_rng(2).normal(size=(3, 3, 3, 5)).astype(np.float32))


def _function(x):
    x = tf.nn.elu(tf.nn.conv2d(x, _KERNEL, 2, "SAME"))
    return tf.tanh(x) * 3.0


def _config(conversion, folder, **values):
    return to_keras.ImportConfig(model=conversion.path, output_dir=folder, **values)


@pytest.fixture
def wrong_elu(monkeypatch):
    monkeypatch.setitem(RULES, "ELU", lambda view: [Step("relu")])


def test_agreement_is_always_written(convert, tmp_path):
    conversion = convert(_function, (32, 24, 3))
    to_keras.convert(_config(conversion, tmp_path / "out"))
    check = json.loads((tmp_path / "out" / "report.json").read_text())["self_check"]
    assert (check["arithmetic"], check["inputs"]) == ("float", "4 built-in pictures")
    assert (check["kernels"], check["first_deviating_node"]) == ("XNNPACK and builtin", "")
    (output,) = check["outputs"]
    assert output["agreement"] == 1.0
    assert 5 < output["value_range"] <= 6  # 3 tanh
    assert output["largest_difference"] < 1e-4
    assert "100.000% equal" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.usefixtures("wrong_elu")
@pytest.mark.parametrize("end", ["value", "class map"])
def test_float_file_that_deviates_is_rejected(convert, tmp_path, end):
    function = _function if end == "value" else lambda x: tf.argmax(_function(x), -1)
    conversion = convert(function, (32, 24, 3))
    with pytest.raises(ValueError, match=r"does not compute what the file computes.*1, ELU\)"):
        to_keras.convert(_config(conversion, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_command_that_rejects_a_file_exits_with_status_1(convert, tmp_path):
    conversion = convert(_function, (32, 24, 3))
    script = (
        "import sys; from tflite_tools.to_keras import __main__, convert, rules, view\n"
        "rules.RULES['ELU'] = lambda _: [view.Step('relu')]\n"
        f"sys.argv = ['to_keras', '--model={conversion.path}', "
        f"'--output_dir={tmp_path / 'out'}']\n"
        "if __name__ == '__main__': __main__.console()\n"
    )
    (tmp_path / "broken.py").write_text(script)
    done = subprocess.run(
        [sys.executable, tmp_path / "broken.py"],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "the first node that deviates" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("wrong_elu")
def test_integer_file_that_deviates_gives_a_warning(convert, tmp_path, caplog):
    conversion = convert(_function, (32, 24, 3), "int8")
    to_keras.convert(_config(conversion, tmp_path / "out"))
    check = json.loads((tmp_path / "out" / "report.json").read_text())["self_check"]
    assert check["arithmetic"] == "integer"
    assert check["outputs"][0]["agreement"] < 0.995
    assert "ELU" in check["first_deviating_node"]
    assert check["first_deviating_node"] in caplog.text


def test_integer_file_agrees(convert, tmp_path):
    conversion = convert(_function, (32, 24, 3), "int8")
    to_keras.convert(_config(conversion, tmp_path / "out"))
    check = json.loads((tmp_path / "out" / "report.json").read_text())["self_check"]
    assert check["outputs"][0]["agreement"] >= 0.995
    assert not check["first_deviating_node"]


def test_dynamic_range_file_is_not_rejected(convert, tmp_path):
    """The runtime rounds its activations to 8 bits, more than the bound of a float file."""
    kernel = tf.constant(np.random.default_rng(3).normal(size=(3, 3, 3, 64)).astype(np.float32))
    conversion = convert(lambda x: tf.nn.conv2d(x, kernel, 1, "SAME"), (32, 24, 3), "dynamic")
    to_keras.convert(_config(conversion, tmp_path / "out"))
    check = json.loads((tmp_path / "out" / "report.json").read_text())["self_check"]
    assert check["arithmetic"] == "dynamic range"
    assert check["outputs"][0]["largest_difference"] > 0
    assert not check["first_deviating_node"]


@pytest.mark.parametrize("variant", ["float32", "int8"])
def test_file_without_weights_is_checked(convert, tmp_path, variant):
    conversion = convert(lambda x: tf.reduce_mean(x, (1, 2)), (32, 24, 3), variant)
    result = to_keras.convert(_config(conversion, tmp_path / "out"))
    assert result.self_check.outputs[0].agreement == 1.0


def test_cut_network_is_checked_at_the_cut(convert, tmp_path):
    conversion = convert(_function, (32, 24, 3))
    tensor = conversion.graph.tensors[conversion.graph.operators[1].outputs[0]].name
    to_keras.convert(_config(conversion, tmp_path / "out", trim_head=tensor))
    check = json.loads((tmp_path / "out" / "report.json").read_text())["self_check"]
    assert check["outputs"][0]["tensor"] == tensor


def test_file_that_does_not_run_is_reported(convert, tmp_path, monkeypatch):
    def fail(*arguments, **settings):
        raise RuntimeError("crashed the runtime")

    monkeypatch.setattr("tflite_tools.to_keras.self_check.run_tensors", fail)
    conversion = convert(_function, (32, 24, 3))
    result = to_keras.convert(_config(conversion, tmp_path / "out"))
    assert result.self_check.lines() == ["not checked against the file: crashed the runtime"]


def test_pictures_are_the_same_at_every_call():
    for shape in ((33, 21, 3), (33, 21, 1), (33, 21, 5), (7,)):
        first, second = built_in_pictures(shape), built_in_pictures(shape)
        assert [picture.shape for picture in first] == [(1, *shape)] * 4
        assert all(np.array_equal(*pair) for pair in zip(first, second, strict=True))
        assert all(picture.dtype == np.uint8 and picture.std() > 10 for picture in first)


def test_any_tensor_of_a_file_can_be_read(convert):
    """XNNPACK does not keep intermediate tensors, but it writes all outputs."""
    conversion = convert(_function, (32, 24, 3))
    graph = read_graph(conversion.path)
    elu = graph.tensors[graph.operators[1].outputs[0]]
    (found,), kernels = file_tensors.run_tensors(
        conversion.path, [elu.index, graph.outputs[0]], inputs=conversion.images[:1]
    )
    assert kernels is Kernels.XNNPACK
    np.testing.assert_allclose(np.tanh(found[0]) * 3, found[1], atol=1e-5)
    network = import_graph(dataclasses.replace(graph, outputs=(elu.index,)))
    assert network.rows[-1].tensor == elu.name


def test_every_part_of_a_split_is_checked_as_itself(convert, tmp_path):
    """Cut at the second part; and a first part that nothing reads."""
    conversion = convert(lambda x: tf.nn.relu(tf.split(x, 2, 3)[1]), (9, 11, 4))
    (split,) = (op for op in conversion.graph.operators if op.kind == "SPLIT")
    second = conversion.graph.tensors[split.outputs[1]]
    for trim in (second.name, ""):
        out = tmp_path / (f"cut{bool(trim)}")
        to_keras.convert(_config(conversion, out, trim_head=trim))
        (output,) = json.loads((out / "report.json").read_text())["self_check"]["outputs"]
        assert output["agreement"] == 1.0
        assert output["largest_difference"] == 0.0
    network = import_graph(conversion.graph)
    assert network.rows[0].index == second.index


@pytest.mark.parametrize(
    ("shape", "classes"),
    [((1, 8, 9, 4), True), ((1, 1344, 4), True), ((1, 4, 1344), False), ((1, 8, 9, 1), False)],
)
def test_classes_are_on_the_last_axis_unless_it_holds_positions(shape, classes):
    assert self_check._has_classes(shape) is classes


def test_a_file_that_takes_four_images_at_once_is_checked(tmp_path):
    function = tf.function(
        lambda x: tf.nn.relu(x[:, 1:]), input_signature=[tf.TensorSpec((4, 5, 6, 3), tf.float32)]
    )
    path = tmp_path / "four.tflite"
    path.write_bytes(
        tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], None
        ).convert()
    )
    graph = read_graph(path)
    image = np.random.default_rng(0).normal(size=(1, 5, 6, 3)).astype(np.float32)
    found = self_check.check(graph, import_graph(graph), inputs=[image], description="noise")
    assert not found.not_run
    assert found.outputs[0].agreement == 1.0
    assert found.outputs[0].value_range > 1

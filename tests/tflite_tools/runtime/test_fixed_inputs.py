"""All inputs but one become constants: the file computes the same, and every reader takes it."""

import warnings

import numpy as np
import pytest
import tensorflow as tf

from tests.children import run_command
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.fixed_inputs import with_fixed_inputs
from tflite_tools.to_keras import self_check
from tflite_tools.to_keras.importer import import_graph

_RANDOM = np.random.default_rng(6)
_KERNEL = tf.constant(_RANDOM.normal(size=(3, 3, 3, 4)).astype(np.float32))
STYLE = _RANDOM.normal(size=(1, 1, 1, 4)).astype(np.float32)


def _network(image, style):
    return tf.nn.relu(tf.nn.conv2d(image, _KERNEL, 1, "SAME") * tf.exp(style) + style)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file of two inputs."""
    specs = [tf.TensorSpec((1, 8, 12, 3), name="image"), tf.TensorSpec((1, 1, 1, 4), name="style")]
    function = tf.function(_network, input_signature=specs)
    path = tmp_path_factory.mktemp("inputs") / "two.tflite"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        path.write_bytes(
            tf.lite.TFLiteConverter.from_concrete_functions(
                [function.get_concrete_function()], None
            ).convert()
        )
    assert len(read_graph(path).inputs) == 2
    return path


def test_the_file_computes_the_same_and_is_imported(file, tmp_path):
    np.save(tmp_path / "style.npy", STYLE)
    fixed = tmp_path / "one.tflite"
    flags = f"--model={file}", f"--constant=style={tmp_path / 'style.npy'}", f"--output={fixed}"
    done = run_command("tflite_tools.fix_inputs", *flags)
    assert done.returncode == 0, done.stderr
    image = _RANDOM.normal(size=(1, 8, 12, 3)).astype(np.float32)
    expected = _network(image, STYLE).numpy()
    np.testing.assert_allclose(FileRunner(fixed)(image), expected, rtol=1e-5, atol=1e-5)
    assert read_contract(fixed).output_shape == (1, 8, 12, 4)
    graph = read_graph(fixed)
    found = self_check.check(graph, import_graph(graph), inputs=[image], description="noise")
    assert found.outputs[0].largest_difference < 1e-5
    done = run_command("tflite_tools.fix_inputs", *flags)
    assert done.returncode == 1
    assert "exists; choose another --output" in done.stderr


def test_one_number_stands_for_all(file, tmp_path):
    fixed = tmp_path / "one.tflite"
    fixed.write_bytes(with_fixed_inputs(file, {"style": np.float64(0.25)}))
    image = _RANDOM.normal(size=(1, 8, 12, 3)).astype(np.float32)
    expected = _network(image, np.full((1, 1, 1, 4), 0.25, np.float32)).numpy()
    np.testing.assert_allclose(FileRunner(fixed)(image), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"stile": 1.0}, "no input 'stile'; it has 'image', 'style'"),
        ({"image": 1.0, "style": 1.0}, r"expected one input without a constant, got 0 \(none\)"),
        ({}, "expected one input without a constant, got 2"),
        ({"style": np.ones(3)}, r"expected one number or the shape \[1, 1, 1, 4\], got \[3\]"),
        ({"style": np.nan}, "expected finite numbers"),
    ],
)
def test_what_does_not_fit_is_said(file, values, message):
    with pytest.raises(ValueError, match=message):
        with_fixed_inputs(file, {name: np.asarray(value) for name, value in values.items()})


@pytest.mark.parametrize("reader", [read_contract, lambda path: import_graph(read_graph(path))])
def test_readers_name_the_command(file, reader):
    advice = r"tflite_tools\.fix_inputs --model=.*two\.tflite --constant=style=VALUE"
    with pytest.raises(ValueError, match=advice):
        reader(file)


def test_a_style_network_of_two_inputs(shared_dir, tmp_path):
    source = shared_dir / "models" / "third_party" / "tk_style_transfer_int8.tflite"
    graph = read_graph(source)
    names = [graph.tensors[index].name for index in graph.inputs]
    (name,) = (name for name in names if name != "content_image")
    fixed = tmp_path / "style.tflite"
    fixed.write_bytes(with_fixed_inputs(source, {name: np.float64(0.1)}))
    graph = read_graph(fixed)
    network = import_graph(graph)
    image = _RANDOM.uniform(0, 1, (1, *network.description.input_shape)).astype(np.float32)
    found = self_check.check(graph, network, inputs=[image], description="noise")
    assert not found.not_run
    assert found.outputs[0].agreement > 0.9

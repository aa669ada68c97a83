"""Files that take images of any size get one, and compute the same."""

import numpy as np
import pytest
import tensorflow as tf

from tests.children import run_command
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.fixed_size import with_fixed_size
from tflite_tools.to_keras.importer import import_file


@pytest.fixture(scope="module")
def any_size(tmp_path_factory):
    """A UNet-like step: half the size, a transposed convolution whose size SHAPE computes."""
    kernel = tf.constant(np.random.default_rng(0).normal(size=(3, 3, 3, 4)), tf.float32)
    up = tf.constant(np.random.default_rng(1).normal(size=(2, 2, 2, 4)), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.float32)])
    def network(image):
        x = tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME"))
        shape = tf.shape(x)
        size = tf.stack([shape[0], shape[1] * 2, shape[2] * 2, 2])
        return tf.nn.conv2d_transpose(x, up, size, 2)

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    path = tmp_path_factory.mktemp("size") / "any.tflite"
    path.write_bytes(converter.convert())
    return path, network


def test_fixed_file_computes_the_same_and_is_imported(any_size, tmp_path):
    path, network = any_size
    fixed = tmp_path / "fixed.tflite"
    done = run_command(
        "tflite_tools.fix_size", f"--model={path}", "--size=16,24", f"--output={fixed}"
    )
    assert done.returncode == 0, done.stderr
    graph = read_graph(fixed)
    assert not {"SHAPE", "PACK", "STRIDED_SLICE"} & {op.kind for op in graph.operators}
    assert all(min(t.shape_signature, default=1) > 0 for t in graph.tensors)
    contract = read_contract(fixed)
    assert (contract.height, contract.width, contract.output_size) == (16, 24, (16, 24))
    image = np.random.default_rng(2).normal(size=(1, 16, 24, 3)).astype(np.float32)
    np.testing.assert_allclose(FileRunner(fixed)(image), network(image), atol=1e-5)
    assert import_file(fixed).description.input_shape == (16, 24, 3)
    again = run_command(
        "tflite_tools.fix_size", f"--model={path}", "--size=16,24", f"--output={fixed}"
    )
    assert again.returncode == 1
    assert "exists; choose another --output" in again.stderr


def test_other_commands_name_the_way(any_size):
    path, _ = any_size
    for read in (read_contract, import_file):
        with pytest.raises(ValueError, match=r"any size.*tflite_tools\.fix_size --model=.*--size"):
            read(path)


def test_size_that_the_network_does_not_take(tmp_path):
    kernel = tf.ones([1, 1, 3, 2])

    @tf.function(input_signature=[tf.TensorSpec([1, None, None, 3], tf.float32)])
    def network(image):
        small = tf.nn.avg_pool2d(image, 2, 2, "VALID")
        up = tf.image.resize(small, 2 * tf.shape(small)[1:3])
        return tf.nn.conv2d(tf.concat([up, image], -1)[..., :3], kernel, 1, "SAME")

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()])
    path = tmp_path / "even.tflite"
    path.write_bytes(converter.convert())
    assert with_fixed_size(path, (8, 6))
    with pytest.raises(ValueError, match="does not run at 7 x 6"):
        with_fixed_size(path, (7, 6))

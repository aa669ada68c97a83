"""Files of images stored channel by channel: fed, read and imported like the others."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.preprocessing import Preprocessing
from tests.children import run_command
from tflite_tools.contract import read_contract
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.flatbuffer.layout import channels_first_input, without_outer_transposes
from tflite_tools.runtime.runner import ModelRunner

SIZE = (16, 24)
KERNEL = np.random.default_rng(0).normal(size=(3, 3, 3, 5)).astype(np.float32)


def converted(path, function, shape):
    spec = tf.TensorSpec(shape, tf.float32)
    concrete = tf.function(function).get_concrete_function(spec)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The same network with images of both layouts."""
    folder = tmp_path_factory.mktemp("layout")

    def last(image):
        return tf.nn.conv2d(image, KERNEL, 1, "SAME")

    def first(image):
        return tf.transpose(last(tf.transpose(image, [0, 2, 3, 1])), [0, 3, 1, 2])

    return (
        converted(folder / "first.tflite", first, [1, 3, *SIZE]),
        converted(folder / "last.tflite", last, [1, *SIZE, 3]),
    )


def test_masks_of_both_layouts_are_equal(files):
    image = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
    contracts = [read_contract(path, Preprocessing()) for path in files]
    assert [c.channels_first for c in contracts] == [True, False]
    assert [c.output_channels_first for c in contracts] == [True, False]
    assert contracts[0].output_shape == contracts[1].output_shape == (1, *SIZE, 5)
    assert "[1, channels, height, width]" in " ".join(contracts[0].warnings)
    maps = [ModelRunner(contract).class_map(image) for contract in contracts]
    np.testing.assert_array_equal(*maps)
    assert len(np.unique(maps[0])) > 2


def test_outer_transposes_are_removed(files, tmp_path):
    first, last = files
    content = without_outer_transposes(first.read_bytes(), read_graph(first))
    (tmp_path / "edited.tflite").write_bytes(content)
    edited = read_graph(tmp_path / "edited.tflite")
    assert [op.kind for op in edited.operators] == [op.kind for op in read_graph(last).operators]
    assert edited.tensors[edited.inputs[0]].shape == (1, *SIZE, 3)
    assert not channels_first_input(edited)
    assert without_outer_transposes(last.read_bytes(), read_graph(last)) is None


def test_import_takes_images_with_channels_last(files, tmp_path):
    done = run_command(
        "tflite_tools.to_keras",
        f"--model={files[0]}",
        f"--output_dir={tmp_path / 'out'}",
        "--mean=123.675,116.28,103.53",
        "--std=58.395,57.12,57.375",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "[1, 3, 16, 24] is taken as [1, 16, 24, 3]" in done.stderr
    assert "100.000% equal" in done.stderr

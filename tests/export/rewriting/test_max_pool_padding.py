"""Max pools padded with minus infinity: zero behind a ReLU, left alone elsewhere."""

import numpy as np
import pytest
import tensorflow as tf

from export.rewriting.max_pool_padding import pad_pools_with_zero
from tests.export.rewriting.tf_functions import converted, kinds, outputs
from tflite_tools.flatbuffer.editor import Editor

RANDOM = np.random.default_rng(8)
KERNEL = tf.constant(RANDOM.normal(size=(1, 1, 3, 5)).astype(np.float32))
IMAGE = RANDOM.normal(size=(1, 8, 12, 3)).astype(np.float32)


def network(activation, value=-np.inf):
    def run(image):
        x = activation(tf.nn.conv2d(image, KERNEL, 1, "SAME") - 1.0)
        x = tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=np.float32(value))
        return tf.nn.max_pool2d(x, 3, 2, "VALID")

    return converted(run, IMAGE.shape)


@pytest.mark.parametrize("activation", [tf.nn.relu, tf.nn.relu6])
@pytest.mark.parametrize("value", [-np.inf, np.finfo(np.float32).min])
def test_behind_a_relu_it_is_the_same_function(activation, value, tmp_path):
    content = network(activation, value)
    assert "PADV2" in kinds(content)
    editor = Editor(content)
    assert pad_pools_with_zero(editor) == 1
    new = editor.to_bytes()
    assert "PADV2" not in kinds(new)
    (expected,), (found,) = outputs(content, IMAGE, tmp_path), outputs(new, IMAGE, tmp_path)
    np.testing.assert_array_equal(found, expected)
    assert (expected == 0).any()  # else a wrong value at the border would not be seen


@pytest.mark.parametrize(("activation", "value"), [(tf.identity, -np.inf), (tf.nn.relu, -1.0)])
def test_elsewhere_it_stays(activation, value):
    content = network(activation, value)
    editor = Editor(content)
    assert pad_pools_with_zero(editor) == 0
    assert "PADV2" in kinds(editor.to_bytes())

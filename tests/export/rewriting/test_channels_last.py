"""Outer transposes: removed, or put in where there are none; the function stays the same."""

import numpy as np
import pytest
import tensorflow as tf

from export.rewriting.channels_last import is_channels_first, to_channels_last, transpose_output
from tests.export.rewriting.tf_functions import converted, kinds, outputs
from tflite_tools.flatbuffer.editor import Editor

RANDOM = np.random.default_rng(3)
KERNEL = tf.constant(RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32))
IMAGE = RANDOM.normal(size=(1, 8, 12, 3)).astype(np.float32)
FIRST = IMAGE.transpose(0, 3, 1, 2)


def nchw(image):
    """A convolution as PyTorch's converters write it."""
    x = tf.nn.conv2d(tf.transpose(image, (0, 2, 3, 1)), KERNEL, 1, "SAME")
    return tf.transpose(x, (0, 3, 1, 2))


def between(image):
    """Element-wise operators on both sides of the convolution, channels first."""
    x = (image / 50.0 - np.float32([0.5, 1, 2])[:, None, None][None]) * 2.0
    return tf.sigmoid(nchw(x) + np.float32([[[1]], [[2]], [[3]], [[4]], [[5]]])[None])


def two_readers(image):
    x = tf.transpose(image, (0, 2, 3, 1))
    y = tf.nn.conv2d(x, KERNEL, 1, "SAME")
    return tf.transpose(y, (0, 3, 1, 2)), tf.reduce_mean(x, (1, 2))


def without_transpose(image):
    return tf.reduce_mean(image, 1), image * 2.0


def rows(image):
    """A layer on the rows of an image, as a transformer of PyTorch has them."""
    x = tf.reshape(tf.transpose(image, (0, 3, 1, 2)), (1, 5, 96))
    x = tf.tanh(tf.transpose(x, (0, 2, 1))) * np.float32([1, 2, 3, 4, 5])
    x = tf.reshape(tf.transpose(x, (0, 2, 1)), (1, 5, 8, 12))
    return tf.transpose(x, (0, 2, 3, 1))


def turned_rows(image):
    """The same shapes, but height and width change places: the transposes are needed."""
    x = tf.reshape(tf.transpose(image, (0, 3, 2, 1)), (1, 5, 96))
    return tf.tanh(tf.transpose(x, (0, 2, 1))) * np.float32([1, 2, 3, 4, 5])


def edited(function):
    content = converted(function, (1, 3, 8, 12))
    editor = Editor(content)
    changes = to_channels_last(editor)
    return content, editor, changes


def test_the_transposes_at_both_ends_go(tmp_path):
    content, editor, changes = edited(nchw)
    assert kinds(content).count("TRANSPOSE") == 2
    new = editor.to_bytes()
    assert kinds(new) == ["CONV_2D"]
    assert changes[-1] == "transposes: 2 before, 0 now"
    (expected,), (found,) = outputs(content, FIRST, tmp_path), outputs(new, IMAGE, tmp_path)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-6)


def test_element_wise_operators_are_passed(tmp_path):
    content, editor, _ = edited(between)
    assert kinds(content).count("TRANSPOSE") == 2
    new = editor.to_bytes()
    assert "TRANSPOSE" not in kinds(new)
    (expected,), (found,) = outputs(content, FIRST, tmp_path), outputs(new, IMAGE, tmp_path)
    np.testing.assert_allclose(found, expected.transpose(0, 2, 3, 1), atol=1e-6)


def test_the_input_keeps_its_name():
    content, editor, _ = edited(nchw)
    old = Editor(content)
    name = old.name(old.graph.inputs[0])
    assert editor.name(editor.graph.inputs[0]) == name


def test_all_readers_of_the_input_are_rewired(tmp_path):
    content, editor, _ = edited(two_readers)
    new = editor.to_bytes()
    assert "TRANSPOSE" not in kinds(new)
    before, after = outputs(content, FIRST, tmp_path), outputs(new, IMAGE, tmp_path)
    for expected, found in zip(before, after, strict=True):
        if expected.ndim == 4:
            expected = expected.transpose(0, 2, 3, 1)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_transpose_is_put_where_the_input_has_none(tmp_path):
    content, editor, changes = edited(without_transpose)
    assert changes[0].startswith("the input takes")
    shapes = [editor.tensor(index).shape for index in editor.graph.inputs]
    assert [list(map(int, shape)) for shape in shapes] == [[1, 8, 12, 3]]
    before, after = (
        outputs(content, FIRST, tmp_path),
        outputs(editor.to_bytes(), IMAGE, tmp_path),
    )
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_array_equal(found, expected)


def test_an_output_is_transposed_on_request(tmp_path):
    content = converted(lambda x: (tf.nn.relu(x), tf.reduce_mean(x)), (1, 8, 12, 3))
    editor = Editor(content)
    position = next(
        place for place, i in enumerate(editor.graph.outputs) if len(editor.tensor(i).shape) == 4
    )
    transpose_output(editor, position)
    found = outputs(editor.to_bytes(), IMAGE, tmp_path)[position]
    np.testing.assert_array_equal(found, np.maximum(IMAGE, 0).transpose(0, 2, 3, 1))


def test_a_file_with_the_channels_last_is_left_alone():
    content = converted(lambda x: tf.nn.conv2d(x, KERNEL, 1, "SAME"), (1, 8, 12, 3))
    editor = Editor(content)
    assert to_channels_last(editor) == []
    assert editor.to_bytes() == content or kinds(editor.to_bytes()) == ["CONV_2D"]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 3, 96, 128), True),
        ((1, 1, 96, 128), True),
        ((1, 96, 128, 3), False),
        ((1, 96, 128, 1), False),
        ((1, 3, 4, 4), False),
        ((1, 64, 96, 128), False),
        ((3, 96, 128), False),
    ],
)
def test_which_shapes_have_the_channels_first(shape, expected):
    assert is_channels_first(shape) is expected


@pytest.mark.parametrize(("function", "left"), [(rows, 0), (turned_rows, 2)])
def test_transposes_around_a_reshape_go_where_values_keep_their_order(function, left, tmp_path):
    image = RANDOM.normal(size=(1, 8, 12, 5)).astype(np.float32)
    content = converted(function, (1, 8, 12, 5))
    assert kinds(content).count("TRANSPOSE") >= 2
    editor = Editor(content)
    to_channels_last(editor)
    new = editor.to_bytes()
    assert kinds(new).count("TRANSPOSE") == left
    (expected,), (found,) = outputs(content, image, tmp_path), outputs(new, image, tmp_path)
    np.testing.assert_array_equal(found, expected)

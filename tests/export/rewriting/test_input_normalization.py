"""Normalization moved into a file: the same function of the same pixels, at the borders too."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.preprocessing import Preprocessing
from export.frameworks.request import NORMALIZATIONS
from export.rewriting.input_normalization import (
    fold_normalization,
    own_normalization,
    remove_own_normalization,
    takes_camera_bytes,
)
from tests.export.rewriting.tf_functions import converted, kinds, outputs
from tflite_tools.flatbuffer.editor import Editor

RANDOM = np.random.default_rng(4)
KERNEL = tf.constant(RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32))
BIAS = tf.constant(RANDOM.normal(size=5).astype(np.float32))
PIXELS = RANDOM.integers(0, 256, (1, 9, 12, 3)).astype(np.uint8)
IMAGENET = NORMALIZATIONS["imagenet"]
DEFAULT = Preprocessing.of(3)


def valid(image):
    return tf.nn.conv2d(image, KERNEL, 2, "VALID") + BIAS


def same(image):
    return tf.nn.relu(tf.nn.conv2d(image, KERNEL, 1, "SAME") + BIAS)


def without_bias(image):
    return tf.nn.conv2d(image, KERNEL, 1, "VALID")


def pointwise(image):
    return tf.nn.conv2d(image, KERNEL[:1, :1], 1, "SAME") + BIAS


def two_readers(image):
    return valid(image), tf.reduce_mean(image, (1, 2))


@pytest.mark.parametrize(
    ("function", "words", "count"),
    [
        (valid, "first convolution", 1),
        (without_bias, "first convolution", 1),
        (pointwise, "first convolution", 1),
        (same, "depthwise", 2),
        (two_readers, "depthwise", 3),
    ],
)
def test_the_same_function_of_pixels(function, words, count, tmp_path):
    content = converted(function, PIXELS.shape)
    editor = Editor(content)
    assert words in fold_normalization(editor, IMAGENET)
    new = editor.to_bytes()
    assert len(kinds(new)) == count
    before = outputs(content, IMAGENET.normalize(PIXELS), tmp_path)
    after = outputs(new, DEFAULT.normalize(PIXELS), tmp_path)
    for expected, found in zip(before, after, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_folding_into_padded_weights_would_be_wrong_at_the_border(tmp_path):
    """Why the depthwise convolution is there: zero padding is not the mean pixel any more."""
    content = converted(same, PIXELS.shape)
    editor = Editor(content)
    fold_normalization(editor, IMAGENET)
    weights = editor.operators("CONV_2D")[0].inputs[1]
    np.testing.assert_array_equal(
        editor.constant(weights), np.asarray(KERNEL).transpose(3, 0, 1, 2)
    )


@pytest.mark.parametrize(
    ("function", "mean", "std"),
    [
        (lambda x: x / 127.5 - 1.0, 127.5, 127.5),
        (lambda x: (x - 128.0) / 128.0, 128, 128),
        (lambda x: (x - IMAGENET.mean) / np.float32(IMAGENET.std), IMAGENET.mean, IMAGENET.std),
    ],
)
def test_a_networks_own_normalization_becomes_the_contract(function, mean, std, tmp_path):
    content = converted(lambda x: same(function(x)), PIXELS.shape)
    editor = Editor(content)
    own = own_normalization(editor)
    assert own is not None and own.takes_pixels
    found = own.combined(NORMALIZATIONS["none"])
    np.testing.assert_allclose(found.mean, np.broadcast_to(mean, 3), atol=1e-4)
    if (own.scale < 1).all():  # else the converter put the factor into the weights
        np.testing.assert_allclose(found.std, np.broadcast_to(std, 3), rtol=1e-6)
    remove_own_normalization(editor, own)
    new = editor.to_bytes()
    assert kinds(new) == ["CONV_2D"]
    (before,) = outputs(content, PIXELS, tmp_path)
    (after,) = outputs(new, found.normalize(PIXELS), tmp_path)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "function",
    [
        same,
        lambda x: same(1.0 - x),
        lambda x: tf.sigmoid(x) + tf.reduce_mean(x / 255.0),
        lambda x: same(tf.nn.relu(x - 100.0)),
    ],
)
def test_what_is_no_normalization_stays(function):
    editor = Editor(converted(function, PIXELS.shape))
    assert own_normalization(editor) is None


def test_small_constants_are_not_taken_for_pixels():
    """Values are scaled, but they were normalized before."""
    own = own_normalization(Editor(converted(lambda x: same(x * 0.5 + 0.1), PIXELS.shape)))
    assert own is not None
    assert not own.takes_pixels


@pytest.mark.parametrize(
    ("name", "expected"),
    [("imagenet", False), ("zero_to_one", True), ("minus_one_to_one", True), ("none", True)],
)
def test_which_normalizations_one_scale_can_stand_for(name, expected):
    assert takes_camera_bytes(NORMALIZATIONS[name]) is expected

"""Graphs that drop, move or reduce their batch of 1; the network keeps one of any size."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.graph.functions import FUNCTIONS

_RANDOM = np.random.default_rng(5)
_PLACES = np.stack(np.meshgrid([0, 2, 3, 5], [1, 4], indexing="ij"), -1).astype(np.int32)
_KERNEL = _RANDOM.normal(size=(4, 6)).astype(np.float32)
SHAPE = (6, 5, 4)


def norm_over_the_batch(x):
    """Keras' layer norm takes its means over all axes but one, the batch of 1 among them."""
    rows = tf.reshape(x, [1, 30, 4, 1])
    rows = tf.transpose(rows, [0, 2, 3, 1])
    mean, variance = tf.nn.moments(rows, [0, 1, 2])
    return tf.transpose((rows - mean) * tf.math.rsqrt(variance + 1e-3), [0, 3, 1, 2])


def chosen_places(x):
    """PyTorch's adaptive pooling: slices at places that are made of constants."""
    image = tf.reshape(x, [6, 5, 1, 4])
    chosen = tf.gather_nd(image, tf.concat([_PLACES[..., :1], _PLACES[..., 1:]], -1))
    return tf.reduce_mean(tf.transpose(chosen, [2, 3, 0, 1]), [3])


def attention(x):
    """Matrices [positions, channels] without a batch, multiplied with each other."""
    rows = tf.reshape(x, [30, 4])
    scores = tf.matmul(tf.matmul(rows, _KERNEL), tf.matmul(rows, _KERNEL), transpose_b=True)
    return tf.reshape(tf.matmul(tf.nn.softmax(scores), rows), [1, 6, 5, 4])


def moved_batch(x):
    return tf.transpose(tf.nn.softmax(tf.transpose(x, [3, 0, 1, 2])), [1, 2, 3, 0])


def pooling_padded_by_infinity(x):
    padded = tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=-np.inf)
    return tf.nn.max_pool2d(padded, 3, 2, "VALID")


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (norm_over_the_batch, "MEAN"),
        (chosen_places, "GATHER_ND"),
        (attention, "FULLY_CONNECTED"),
        (moved_batch, "TRANSPOSE"),
        (pooling_padded_by_infinity, "PADV2"),
    ],
)
def test_network_computes_what_the_file_computes(convert, build_loaded, function, kind):
    conversion = convert(function, SHAPE)
    assert kind in conversion.kinds or function is attention, conversion.kinds
    expected = conversion.file_outputs()
    for found, one in zip(conversion.outputs(), expected, strict=True):
        np.testing.assert_allclose(found.reshape(one.shape), one, atol=1e-5)
    # In a batch each image is computed for itself.
    together = np.asarray(build_loaded(conversion.network)(np.concatenate(conversion.images)))
    alone = np.concatenate(conversion.outputs())
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize("function", ["matrix_product", "matrix_product_second_transposed"])
def test_a_product_of_other_ranks_keeps_each_batch_to_itself(function):
    first = _RANDOM.normal(size=(3, 2, 5, 4)).astype(np.float32)
    second = _RANDOM.normal(size=(3, 4, 4)).astype(np.float32)
    matrices = second.transpose(0, 2, 1) if function.endswith("transposed") else second
    expected = np.stack([one @ other for one, other in zip(first, matrices, strict=True)])
    np.testing.assert_allclose(
        FUNCTIONS[function](tf.constant(first), tf.constant(second)), expected, atol=1e-5
    )

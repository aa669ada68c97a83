"""Resize conventions against coordinates worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment, nearest_indices
from deeplab_tf.graph.resize import resize_bilinear

ROW = tf.reshape(tf.constant([0.0, 10.0, 20.0]), (1, 1, 3, 1))


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        # 3 -> 5: sources 0, 0.5, 1, 1.5, 2
        (Alignment.ALIGN_CORNERS, [0, 5, 10, 15, 20]),
        # sources 0, 0.6, 1.2, 1.8, 2.4 (the last is clamped)
        (Alignment.LEGACY, [0, 6, 12, 18, 20]),
        # sources -0.2 (clamped), 0.4, 1, 1.6, 2.2 (clamped)
        (Alignment.HALF_PIXEL, [0, 4, 10, 16, 20]),
    ],
)
def test_bilinear_by_hand(alignment, expected):
    found = resize_bilinear(ROW, (1, 5), alignment=alignment)
    np.testing.assert_allclose(tf.reshape(found, [-1]), expected, atol=1e-5)
    sizes = tf.constant(1), tf.constant(5)
    np.testing.assert_array_equal(resize_bilinear(ROW, sizes, alignment=alignment), found)


def test_same_size_adds_no_operator():
    assert resize_bilinear(ROW, (1, 3), alignment=Alignment.LEGACY) is ROW


@pytest.mark.parametrize(
    ("alignment", "expected"),
    [
        (Alignment.ALIGN_CORNERS, [0, 1, 1, 2, 2]),  # 0.5 and 1.5 round up
        (Alignment.LEGACY, [0, 0, 1, 1, 2]),
        (Alignment.HALF_PIXEL, [0, 0, 1, 2, 2]),  # 0.3, 0.9, 1.5, 2.1, 2.7
    ],
)
def test_nearest_by_hand(alignment, expected):
    assert nearest_indices(3, 5, alignment=alignment).tolist() == expected
    assert nearest_indices(4, 1, alignment=alignment).tolist() in ([0], [2])

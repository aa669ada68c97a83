"""Intervals of mIoU differences, against what is known of the samples."""

import numpy as np
import pytest

from deeplab_tf.data.confusion import mean_iou
from tflite_tools.bootstrap import miou_difference


def matrices(images, accuracy, seed):
    """Two classes, 100 pixels each an image, of which a share is right."""
    random = np.random.default_rng(seed)
    result = np.zeros((images, 2, 3), np.uint32)
    right = random.binomial(100, accuracy, (images, 2))
    result[:, 0, 0], result[:, 1, 1] = right.T
    result[:, 0, 1], result[:, 1, 0] = 100 - right.T
    return result


def test_difference_is_that_of_the_whole_list():
    first, second = matrices(40, 0.8, 0), matrices(40, 0.9, 1)
    found = miou_difference(first, second)
    expected = mean_iou(second.sum(0))[0] - mean_iou(first.sum(0))[0]
    assert found.difference == pytest.approx(expected, rel=1e-12)
    assert found.low < found.difference < found.high
    assert not found.is_noise
    assert miou_difference(second, first).high < 0


def test_equal_files_differ_by_nothing_and_chance_is_called_noise():
    first = matrices(40, 0.8, 0)
    same = miou_difference(first, first)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert miou_difference(first, matrices(40, 0.8, 5)).is_noise


def test_interval_covers_what_is_true_about_as_often_as_it_says():
    """Both files are right on 80 % of all pixels in the world: the true difference is 0."""
    covered = [
        miou_difference(matrices(60, 0.8, 2 * seed), matrices(60, 0.8, 2 * seed + 1)).is_noise
        for seed in range(100)
    ]
    assert 0.88 <= np.mean(covered) <= 1.0


def test_interval_narrows_with_more_images():
    few = miou_difference(matrices(20, 0.8, 0), matrices(20, 0.85, 1))
    many = miou_difference(matrices(500, 0.8, 0), matrices(500, 0.85, 1))
    assert many.high - many.low < 0.4 * (few.high - few.low)


def test_classes_and_bad_input():
    first, second = matrices(30, 0.8, 0), matrices(30, 0.9, 1)
    second[:, 1] = first[:, 1]
    assert miou_difference(first, second, (0,)).difference > 0
    with pytest.raises(ValueError, match="same images"):
        miou_difference(first, second[1:])

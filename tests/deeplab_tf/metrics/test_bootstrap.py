"""Intervals of mIoU differences, against what is known of the samples."""

import numpy as np
import pytest

from deeplab_tf.metrics.bootstrap import Interval, common_classes, miou_difference
from deeplab_tf.metrics.confusion import mean_iou


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
    assert miou_difference(first, second, classes=(0,)).difference > 0
    with pytest.raises(ValueError, match="same images"):
        miou_difference(first, second[1:])


def of_one_stray_pixel():
    """Ten classes and 300,000 pixels, nine classes in the truth; the second file moves one pixel of
    class 0 to the class that no image holds.

    30 images of 10,000 pixels: classes 0 to 8 hold 1111 each, class 0 one more.
    """
    first = np.zeros((30, 10, 11), np.int64)
    first[:, range(9), range(9)] = 1111
    first[:, 0, 0] += 1
    second = first.copy()
    second[0, 0, 0] -= 1
    second[0, 0, 9] += 1
    return first, second


def test_one_pixel_of_a_class_that_no_image_holds_is_one_pixel():
    first, second = of_one_stray_pixel()
    # Both means over their own classes: 1 against (9 - 1/33360) / 10, ten points for a pixel.
    assert mean_iou(second.sum(0))[0] - mean_iou(first.sum(0))[0] < -0.0999
    assert common_classes(first, second) == tuple(range(9))
    assert common_classes(first, second, classes=(8, 9)) == (8,)
    for classes in ((), tuple(range(10))):
        found = miou_difference(first, second, classes=classes)
        # Class 0 has 30 * 1112 pixels and loses one of them; the mean is over nine classes.
        assert found.difference == pytest.approx(-1 / (30 * 1112) / 9, rel=1e-9)
        # A resampled list holds the one image seven times at most, more rarely than 1 in 10,000.
        assert -7 * -found.difference <= found.low <= found.high <= 0


def test_a_resampled_list_counts_what_both_files_count_on_it():
    """Image 0 holds a stray pixel of class 2 in the first file, image 1 in the second: the whole
    list counts the class in both, most resampled ones in one file alone."""
    first = np.zeros((40, 3, 4), np.int64)
    first[:, range(2), range(2)] = 1000
    second = first.copy()
    first[0, 0, 2], second[1, 0, 2] = 1, 1
    found = miou_difference(first, second)
    # IoU of class 2 is 0 in both; one pixel among 40,000 of class 0 moves nothing else.
    assert abs(found.difference) < 1e-9
    assert max(-found.low, found.high) < 1e-4


def test_no_class_in_common_is_no_difference():
    first, second = (np.zeros((3, 4, 5), np.int64) for _ in range(2))
    first[:, 0, 4], second[:, 1, 1] = 10, 10
    found = miou_difference(first, second)
    assert np.isnan([found.difference, found.low, found.high]).all()
    assert found.is_noise
    assert not Interval(0.1, 0.05, high=0.2).is_noise

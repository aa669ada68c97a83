"""Scores worked out by hand.

The matrix of `MATRIX`, 3 classes (a, b, c never occurs):
    truth a: 3 pixels, predicted a, a, b        truth b: 2 pixels, predicted b, outside
    IoU a = 2 / (3 + 2 - 2) = 2/3               IoU b = 1 / (2 + 2 - 1) = 1/3
"""

import math

import numpy as np
import pytest

from deeplab_tf.metrics.confusion import (
    confusion_matrix,
    iou_per_class,
    mean_class_accuracy,
    mean_iou,
    mean_true_iou,
    notes_on_means,
    pixel_accuracy,
)
from deeplab_tf.metrics.signal_to_noise import snr_db

LABEL = np.array([[0, 0, 0, 1], [1, 255, 255, 255]], np.uint8)
PREDICTION = np.array([[0, 0, 1, 1], [7, 0, 1, 2]])
MATRIX = [[2, 1, 0, 0], [0, 1, 0, 1], [0, 0, 0, 0]]


def test_matrix_by_hand():
    matrix = confusion_matrix(LABEL, PREDICTION, num_classes=3)
    assert matrix.dtype == np.int64
    assert matrix.tolist() == MATRIX


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint16])
def test_every_integer_type_of_prediction_counts_alike(dtype):
    assert confusion_matrix(LABEL, PREDICTION.astype(dtype), num_classes=3).tolist() == MATRIX


def test_negative_predictions_cost_the_true_class_its_pixels():
    matrix = confusion_matrix(
        np.array([[0, 1]], np.uint8), np.array([[-1, -128]], np.int8), num_classes=2
    )
    assert matrix.tolist() == [[0, 0, 1], [0, 0, 1]]


def test_int8_predictions_with_more_classes_than_int8_holds():
    matrix = confusion_matrix(
        np.array([[5, 6]], np.uint8), np.array([[5, -3]], np.int8), num_classes=150
    )
    assert (matrix[5, 5], matrix[6, 150], matrix.sum()) == (1, 1, 2)


@pytest.mark.parametrize("num_classes", [2, 19, 254, 255])
def test_matrix_equals_counting_pixel_by_pixel(num_classes):
    rng = np.random.default_rng(num_classes)
    label = rng.choice([*range(num_classes), 255], (23, 31)).astype(np.uint8)
    prediction = rng.integers(0, 256, (23, 31), dtype=np.uint8)
    expected = np.zeros((num_classes, num_classes + 1), np.int64)
    for truth, guess in zip(label.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if truth != 255:
            expected[truth, guess if guess < num_classes else num_classes] += 1
    np.testing.assert_array_equal(
        confusion_matrix(label, prediction, num_classes=num_classes), expected
    )


def test_iou_is_nan_where_nothing_was_true_or_predicted():
    np.testing.assert_allclose(iou_per_class(np.array(MATRIX)), [2 / 3, 1 / 3, np.nan], rtol=1e-15)


def test_mean_iou_counts_classes_with_a_union():
    score, counted = mean_iou(np.array(MATRIX))
    assert counted == 2
    assert score == pytest.approx((2 / 3 + 1 / 3) / 2, rel=1e-15)


def test_mean_over_chosen_classes_keeps_every_pixel_in_their_unions():
    assert mean_iou(np.array(MATRIX), (1,)) == (pytest.approx(1 / 3, rel=1e-15), 1)
    assert mean_iou(np.array(MATRIX), (0, 2)) == (pytest.approx(2 / 3, rel=1e-15), 1)


def test_class_that_is_only_predicted_counts_as_zero():
    """The convention: with the classes of the truth alone this would be 0.75."""
    matrix = confusion_matrix(
        np.array([[0, 0, 0, 0]], np.uint8), np.array([[0, 0, 0, 1]]), num_classes=3
    )
    assert mean_iou(matrix) == (0.375, 2)  # (3/4 + 0) / 2


def test_accuracies_by_hand():
    matrix = np.array(MATRIX)
    assert pixel_accuracy(matrix) == 3 / 5
    assert mean_class_accuracy(matrix) == pytest.approx((2 / 3 + 1 / 2) / 2, rel=1e-15)


def test_ignored_pixels_alone_give_nan_not_zero():
    label = np.full((2, 2), 255, np.uint8)
    matrix = confusion_matrix(label, np.array([[0, 1], [2, 9]]), num_classes=3)
    score, counted = mean_iou(matrix)
    assert (matrix.sum(), counted) == (0, 0)
    assert np.isnan([score, pixel_accuracy(matrix), mean_class_accuracy(matrix)]).all()


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"label \(2, 4\) and prediction \(4, 2\) differ in size"):
        confusion_matrix(LABEL, PREDICTION.T, num_classes=3)


def test_decibels():
    assert snr_db(100.0, 1.0) == pytest.approx(20)
    assert snr_db(1.0, 0.0) == snr_db(0.0, 0.0) == math.inf
    assert snr_db(0.0, 1.0) == snr_db(1.0, math.inf) == snr_db(1e-30, 1e300) == -math.inf
    assert math.isnan(snr_db(1.0, math.nan))


def test_mean_over_true_classes_does_not_move_by_a_stray_pixel_of_another():
    matrix = np.array([[8, 2, 0, 0], [0, 10, 0, 0], [0, 0, 0, 0]])
    assert mean_true_iou(matrix) == pytest.approx((8 / 10 + 10 / 12) / 2, rel=1e-12)
    matrix[0, :3] = 8, 1, 1  # a pixel of class 0 taken for class 2 and not for class 1
    assert mean_true_iou(matrix) == pytest.approx((8 / 10 + 10 / 11) / 2, rel=1e-12)
    assert mean_iou(matrix)[0] == pytest.approx((8 / 10 + 10 / 11) / 3, rel=1e-12)
    assert np.isnan(mean_true_iou(np.zeros((3, 4), np.int64)))


def test_means_over_other_classes_are_said_with_those_that_compare():
    """x counts a and b, y all three: 3 pixels of a each, of which one is wrong."""
    x = np.array([[2, 1, 0, 0], [0, 3, 0, 0], [0, 0, 0, 0]])
    y = np.array([[2, 0, 1, 0], [0, 3, 0, 0], [0, 0, 0, 0]])
    # IoU of x: a 2/3, b 3/4; of y: a 2/3, b 1, c 0.
    assert notes_on_means({"x": x, "y": y, "z": y}, ("a", "b", "c")) == [
        "mIoU is not over the same classes: x over 2 classes; y, z over 3 classes (also c). Over "
        "the 2 that all count, %: x 70.83, y 83.33, z 83.33"
    ]
    assert notes_on_means({"x": x, "y": y}, ("a", "b", "c"), classes=(0, 1)) == []
    assert notes_on_means({"x": x, "also": x}, ("a", "b", "c")) == []
    assert notes_on_means({}, ("a", "b", "c")) == []


def test_a_mean_of_one_class_is_said():
    alone = np.array([[5, 0, 0], [0, 0, 0]])
    assert notes_on_means({"x": alone}, ("a", "b")) == ["mIoU of x is the IoU of one class, a"]
    other = np.array([[0, 0, 0], [0, 4, 0]])
    notes = notes_on_means({"x": alone, "y": other}, ("a", "b"))
    assert notes[:2] == [
        "mIoU of x is the IoU of one class, a",
        "mIoU of y is the IoU of one class, b",
    ]
    assert notes[2].endswith("Over the 0 that all count, %: none")

"""Scores of real masks against a second, plain implementation: sets of pixels, loops, erosions.

The prediction for a photo is the mask of the next frame of the drive, which is like it and wrong at
every contour.
"""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.boundary import band_width, boundary_counts
from deeplab_tf.metrics.confusion import (
    confusion_matrix,
    iou_per_class,
    mean_class_accuracy,
    mean_iou,
    pixel_accuracy,
)
from deeplab_tf.metrics.overlap import iou_from_counts

CLASSES = 11
FRAMES = 4


@pytest.fixture(scope="module")
def pairs(shared_dir):
    """(label, prediction) of some frames, int64."""
    dataset = open_dataset("camvid", shared_dir / "data" / "camvid", split="val")
    masks = [dataset.label(index).astype(int) for index in range(FRAMES + 1)]
    return list(itertools.pairwise(masks))


@pytest.fixture(scope="module")
def pixel_sets(pairs):
    """For each class the labelled pixels (frame, row, column) of truth and of prediction."""
    truth, predicted = ([set() for _ in range(CLASSES)] for _ in range(2))
    for frame, (label, prediction) in enumerate(pairs):
        for (row, column), value in np.ndenumerate(label):
            if value == 255:
                continue
            truth[value].add((frame, row, column))
            if (given := prediction[row, column]) < CLASSES:
                predicted[given].add((frame, row, column))
    return truth, predicted


def test_iou_and_accuracies_are_those_of_sets(pairs, pixel_sets):
    truth, predicted = pixel_sets
    total = sum(confusion_matrix(label, given, num_classes=CLASSES) for label, given in pairs)
    expected = [
        len(t & p) / len(t | p) if t | p else np.nan for t, p in zip(truth, predicted, strict=True)
    ]
    np.testing.assert_allclose(iou_per_class(total), expected, rtol=1e-12)
    known = [value for value in expected if value == value]
    assert len(known) >= 9, "the frames hold most classes"
    assert mean_iou(total) == (pytest.approx(sum(known) / len(known), rel=1e-12), len(known))
    right = sum(len(t & p) for t, p in zip(truth, predicted, strict=True))
    assert pixel_accuracy(total) == pytest.approx(right / sum(map(len, truth)), rel=1e-12)
    recalls = [len(t & p) / len(t) for t, p in zip(truth, predicted, strict=True) if t]
    assert mean_class_accuracy(total) == pytest.approx(sum(recalls) / len(recalls), rel=1e-12)


def band(mask, distance):
    """A mask less what `distance` erosions leave of it; beyond the border nothing is in it."""
    inside = ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=distance, border_value=0)
    return mask & ~inside


def test_boundary_iou_is_that_of_eroded_masks(pairs):
    """Pixels without a label are in no mask and make no contour: erosion takes them for inside."""
    distance = band_width(*pairs[0][0].shape)
    assert distance == 12
    counts, expected = 0, np.zeros((CLASSES, 2), np.int64)
    for label, prediction in pairs:
        counts += boundary_counts(
            label.astype(np.uint8),
            prediction.astype(np.uint8),
            num_classes=CLASSES,
            distance=distance,
        )
        free = label == 255
        for index in range(CLASSES):
            true_band, given_band = (
                band((classes == index) | free, distance) & (classes == index) & ~free
                for classes in (label, prediction)
            )
            expected[index] += (
                (true_band & given_band).sum(),
                (true_band | given_band).sum(),
            )
    np.testing.assert_array_equal(counts, expected)
    assert np.isfinite(iou_from_counts(counts)).sum() >= 9

"""Boundary IoU: worked out by hand, and against the authors' way of computing it."""

import numpy as np
import pytest
from scipy import ndimage

from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.boundary import band_width, boundary_counts, inner_band
from deeplab_tf.metrics.overlap import iou_from_counts
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.boundaries import count_boundaries
from tflite_tools.runtime.runner import ModelRunner


def blobs(seed, classes, shape=(60, 80)):
    """Smooth regions of every class, uint8."""
    rng = np.random.default_rng(seed)
    noise = [ndimage.gaussian_filter(rng.normal(size=shape), 5) for _ in range(classes)]
    return np.argmax(noise, axis=0).astype(np.uint8)


def by_erosion(label, prediction, index, distance):
    """One class as the authors' program has it: the mask less itself eroded d times by 3 x 3."""
    bands = []
    for mask in (label == index, prediction == index):
        inside = ndimage.binary_erosion(mask, np.ones((3, 3)), distance, border_value=0)
        bands.append(mask & ~inside)
    return np.sum(bands[0] & bands[1]), np.sum(bands[0] | bands[1])


def test_square_moved_by_one_worked_out_by_hand():
    # A 4 x 4 square of class 1 in a 6 x 6 photo; the prediction has it one column to the right.
    label = np.zeros((6, 6), np.uint8)
    label[1:5, 1:5] = 1
    prediction = np.roll(label, 1, axis=1)
    counts = boundary_counts(label, prediction, num_classes=2, distance=1)
    # Class 1: both bands are rings of 12. They share columns 2, 3, 4 of rows 1 and 4: 6 of 18.
    # Class 0: all 20 + 20 pixels lie at the border or beside the square; 16 are common, of 24.
    np.testing.assert_array_equal(counts, [[16, 24], [6, 18]])
    assert iou_from_counts(counts) == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize("distance", [1, 2, 5])
def test_equals_erosion_class_by_class(distance):
    label, prediction = blobs(0, 5), blobs(1, 5)
    prediction[:30] = np.roll(label, 2, axis=1)[:30]
    counts = boundary_counts(label, prediction, num_classes=5, distance=distance)
    expected = [by_erosion(label, prediction, index, distance) for index in range(5)]
    np.testing.assert_array_equal(counts, expected)
    assert counts[:, 0].min() > 0


def test_ignored_pixels_make_no_contour_and_are_not_counted():
    label = np.zeros((9, 9), np.uint8)
    label[4, 4] = 255
    prediction = np.zeros((9, 9), np.uint8)
    prediction[4, 4] = 1
    # The border's 32 pixels; a contour around the ignored pixel would add its 8 neighbours.
    np.testing.assert_array_equal(
        boundary_counts(label, prediction, num_classes=2, distance=1), [[32, 32], [0, 0]]
    )


def test_an_ignored_seam_hides_no_contour_behind_it():
    classes = np.zeros((5, 11), np.int16)
    classes[:, 5], classes[:, 6:] = -1, 1  # -1: ignored
    band = inner_band(classes, 2)
    # Row 2 is away from the photo's upper and lower border by exactly two: columns 2 to 4 and
    # 6 to 8 decide. Column 4 sees class 1 across the seam, column 3 does not.
    assert band[2].tolist() == [1, 1, 0, 0, 1, 0, 1, 0, 0, 1, 1]


def test_a_class_that_does_not_exist_bounds_its_neighbours_and_hits_nothing():
    label = np.zeros((9, 9), np.uint8)
    prediction = np.zeros((9, 9), np.uint8)
    prediction[4, 4] = 200
    # 32 of the border are common; the prediction has 8 more around the hole.
    np.testing.assert_array_equal(
        boundary_counts(label, prediction, num_classes=1, distance=1), [[32, 40]]
    )


def test_band_is_two_percent_of_the_diagonal():
    assert band_width(360, 480) == 12
    assert band_width(1024, 2048) == 46  # 0.02 * 2289.7
    assert band_width(5, 5) == 1


def test_thick_objects_show_in_the_band_what_iou_hides():
    label = np.zeros((200, 200), np.uint8)
    label[20:180, 20:180] = 1
    prediction = np.zeros((200, 200), np.uint8)
    prediction[24:180, 20:180] = 1
    (_, plain), (_, band) = (
        (0, np.sum((label == 1) & (prediction == 1)) / np.sum((label == 1) | (prediction == 1))),
        iou_from_counts(
            boundary_counts(label, prediction, num_classes=2, distance=band_width(200, 200))
        ),
    )
    assert plain == pytest.approx(0.975)
    assert band < 0.75


def test_children_count_what_one_process_counts():
    dataset = open_dataset("synthetic", None, split="val")
    contracts = [read_contract(CAMVID / name) for name in ("int8.tflite", "qat_int8.tflite")]
    counts, failures = count_boundaries(contracts, dataset, count=3, processes=2)
    assert failures == {}
    for index, contract in enumerate(contracts):
        runner = ModelRunner(contract)
        for number in range(3):
            image, label = dataset.read(number)
            canvas, placement = place(image, (contract.height, contract.width))
            prediction = placement.restore_label(runner.class_map(canvas))
            for label_index in range(dataset.label_set.num_classes):
                expected = by_erosion(label, prediction, label_index, band_width(*label.shape))
                assert tuple(counts[index][number, label_index]) == expected

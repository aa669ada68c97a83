"""Intervals of mIoU differences, against what is known of the samples."""

import numpy as np
import pytest

from deeplab_tf.metrics.bootstrap import (
    Interval,
    common_classes,
    miou_difference,
    simultaneous_differences,
)
from deeplab_tf.metrics.confusion import mean_iou
from deeplab_tf.metrics.resampling import Dependence, block_length, variance_inflation


def independent(count):
    """Every image is a group of its own."""
    return Dependence(tuple(f"image {number}" for number in range(count)))


def difference_of(first, second, **options):
    return miou_difference(first, second, dependence=independent(len(first)), **options)


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
    found = difference_of(first, second)
    expected = mean_iou(second.sum(0))[0] - mean_iou(first.sum(0))[0]
    assert found.difference == pytest.approx(expected, rel=1e-12)
    assert found.low < found.difference < found.high
    assert not found.is_noise
    assert difference_of(second, first).high < 0


def test_equal_files_differ_by_nothing_and_chance_is_called_noise():
    first = matrices(40, 0.8, 0)
    same = difference_of(first, first)
    assert (same.difference, same.low, same.high) == (0, 0, 0)
    assert difference_of(first, matrices(40, 0.8, 5)).is_noise


def test_interval_covers_what_is_true_about_as_often_as_it_says():
    """Both files are right on 80 % of all pixels in the world: the true difference is 0."""
    covered = [
        difference_of(matrices(60, 0.8, 2 * seed), matrices(60, 0.8, 2 * seed + 1)).is_noise
        for seed in range(100)
    ]
    assert 0.88 <= np.mean(covered) <= 1.0


def test_interval_narrows_with_more_images():
    few = difference_of(matrices(20, 0.8, 0), matrices(20, 0.85, 1))
    many = difference_of(matrices(500, 0.8, 0), matrices(500, 0.85, 1))
    assert many.high - many.low < 0.4 * (few.high - few.low)


def test_classes_and_bad_input():
    first, second = matrices(30, 0.8, 0), matrices(30, 0.9, 1)
    second[:, 1] = first[:, 1]
    assert difference_of(first, second, classes=(0,)).difference > 0
    with pytest.raises(ValueError, match="same images"):
        difference_of(first, second[1:])


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
        found = difference_of(first, second, classes=classes)
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
    found = difference_of(first, second)
    # IoU of class 2 is 0 in both; one pixel among 40,000 of class 0 moves nothing else.
    assert abs(found.difference) < 1e-9
    assert max(-found.low, found.high) < 1e-4


def test_no_class_in_common_is_no_difference():
    first, second = (np.zeros((3, 4, 5), np.int64) for _ in range(2))
    first[:, 0, 4], second[:, 1, 1] = 10, 10
    found = difference_of(first, second)
    assert np.isnan([found.difference, found.low, found.high]).all()
    assert found.is_noise
    assert not Interval(0.1, 0.05, high=0.2, unit="images", units=30, independent=30).is_noise


def test_ends_are_those_of_95_percent():
    """One class whose union is 100 on every image: the difference is a mean over images, and its
    standard error is known."""
    random = np.random.default_rng(4)
    first = np.zeros((400, 1, 2), np.int64)
    second = first.copy()
    for stack, share in ((first, 0.6), (second, 0.7)):
        stack[:, 0, 0] = random.binomial(100, share, 400)
        stack[:, 0, 1] = 100 - stack[:, 0, 0]
    changes = (second[:, 0, 0] - first[:, 0, 0]) / 100
    half = 1.96 * changes.std() / np.sqrt(len(changes))
    found = difference_of(first, second)
    assert found.difference == pytest.approx(changes.mean(), rel=1e-12)
    assert found.difference - found.low == pytest.approx(half, rel=0.06)
    assert found.high - found.difference == pytest.approx(half, rel=0.06)
    assert found.basis == "400 images"


def correlated(count, seed, strength):
    """First-order autoregressive noise, standard normal at every place."""
    random = np.random.default_rng(seed)
    noise = random.normal(size=count)
    series = noise.copy()
    for place in range(1, count):
        series[place] = strength * series[place - 1] + np.sqrt(1 - strength**2) * noise[place]
    return series


@pytest.mark.parametrize(
    ("count", "seed", "strength", "length"),
    [  # `optimal_block_length(x)["circular"]` of arch 8.0.0 on the same series, rounded up
        (101, 0, 0.0, 2),
        (101, 1, 0.0, 1),
        (101, 0, 0.6, 7),
        (101, 3, 0.6, 5),
        (400, 0, 0.6, 12),
        (400, 3, 0.6, 12),
        (101, 0, 0.9, 14),
        (101, 3, 0.9, 11),
        (400, 1, 0.9, 32),
        (400, 3, 0.9, 28),
    ],
)
def test_length_of_blocks_against_another_program(count, seed, strength, length):
    random = np.random.default_rng(seed)
    series = random.normal(size=count)
    for place in range(1, count):
        series[place] += strength * series[place - 1]
    # arch divides covariances by the number of pairs, here as in the paper by all images.
    assert abs(block_length([series]) - length) <= 1


def test_what_correlated_images_are_worth():
    """The variance of their mean is (1 + 0.6) / (1 - 0.6) = 4 times that of independent ones."""
    found = [variance_inflation([correlated(2000, seed, 0.6)]) for seed in range(10)]
    assert np.mean(found) == pytest.approx(4, rel=0.25)
    alone = [variance_inflation([correlated(2000, seed, 0.0)]) for seed in range(10)]
    assert np.mean(alone) < 1.2
    assert variance_inflation([np.ones(50)]) == 1
    first, second = frames(400, 1, 0.6)
    interval = miou_difference(first, second, dependence=Dependence(("drive",) * 400))
    assert 50 <= interval.independent <= 200
    assert interval.units < interval.independent < 400
    assert interval.basis == f"{interval.units} {interval.unit}, worth {interval.independent}"


def test_length_of_blocks_of_parts_of_unlike_lengths():
    """A part that is shorter than the longest lag takes no part in that lag."""
    series = correlated(400, 0, 0.9)
    whole = block_length([series])
    parts = block_length([series[:300], series[300:303], series[303:]])
    assert abs(parts - whole) <= 0.2 * whole
    assert block_length([series[:2], series[2:3], series[3:60]]) >= 1


def test_length_of_blocks_of_what_does_not_vary():
    assert block_length([np.ones(50)]) == 1
    assert block_length([np.arange(3.0)]) == 1


def frames(count, seed, strength):
    """Two files that are right on 700 of 1000 pixels on average, on frames of one drive: their
    difference is correlated from frame to frame."""
    change = np.rint(40 * correlated(count, seed, strength)).astype(np.int64)
    stacks = []
    for sign in (-1, 1):
        stack = np.zeros((count, 1, 2), np.int64)
        stack[:, 0, 0] = 700 + sign * change
        stack[:, 0, 1] = 1000 - stack[:, 0, 0]
        stacks.append(stack)
    return stacks


def test_frames_of_one_drive_are_not_independent():
    """The true difference is 0; of 100 drives, the intervals miss it where frames count singly."""
    drive = Dependence(("drive",) * 101)
    singly = blocks = 0
    for seed in range(100):
        first, second = frames(101, seed, 0.6)
        singly += not difference_of(first, second).is_noise
        found = miou_difference(first, second, dependence=drive)
        assert found.unit.startswith("blocks of ") or found.unit == "images"
        blocks += not found.is_noise
    assert singly >= 25, "101 correlated frames hold as much as 25 independent ones"
    assert blocks <= 15, "5 % if the length of the blocks were known; it is measured on 101 frames"
    assert 2 * blocks < singly


def test_few_units_widen_the_interval_as_the_t_distribution_is_wider():
    """12 images of one class with normal differences: about 5 % of the intervals miss the truth,
    where plain percentiles miss it in about 10 %."""
    missed = 0
    for seed in range(300):
        changes = np.random.default_rng(seed).normal(0, 50, 12)
        first = np.zeros((12, 1, 2), np.int64)
        first[:, 0] = (500, 500)
        second = first.copy()
        second[:, 0, 0] += np.rint(changes).astype(np.int64)
        second[:, 0, 1] = 1000 - second[:, 0, 0]
        missed += not difference_of(first, second).is_noise
    assert missed <= 22


def test_a_given_length_of_blocks_is_taken():
    first, second = frames(101, 0, 0.0)
    found = miou_difference(first, second, dependence=Dependence((), 5))
    assert (found.unit, found.units) == ("blocks of 5 images", 21)
    with pytest.raises(ValueError, match="block_length must not be negative"):
        Dependence((), -1)
    with pytest.raises(ValueError, match="a group for each of 101 images, got 2"):
        miou_difference(first, second, dependence=Dependence(("a", "b")))


def test_whole_groups_are_drawn():
    """Each image of the list five times, as one group: the interval of the single images."""
    first, second = matrices(30, 0.8, 0), matrices(30, 0.85, 1)
    groups = Dependence(tuple(f"photo {number}" for number in range(30) for _ in range(5)))
    once = difference_of(first, second)
    found = miou_difference(
        np.repeat(first, 5, axis=0), np.repeat(second, 5, axis=0), dependence=groups
    )
    assert found.basis == "30 groups"
    assert found.difference == pytest.approx(once.difference, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((once.low, once.high), rel=1e-9)


def test_too_few_units_give_no_interval():
    """Ten images, of which nine hold class 1."""
    first, second = matrices(10, 0.8, 0), matrices(10, 0.9, 1)
    first[0, 1], second[0, 1] = 0, 0
    first[0, 0, 1], second[0, 0, 1] = 0, 0
    whole = difference_of(first, second)
    assert not whole.too_few
    assert np.isfinite([whole.low, whole.high]).all()
    of_class = difference_of(first, second, classes=(1,))
    assert (of_class.units, of_class.too_few) == (9, True)
    assert of_class.difference > 0
    assert np.isnan([of_class.low, of_class.high]).all()
    assert of_class.is_noise
    assert of_class.to_json() | {"difference": 0} == {
        "difference": 0,
        "low": None,
        "high": None,
        "unit": "images",
        "units": 9,
        "independent": 9,
        "compared": 1,
        "too_few": True,
    }
    three = Dependence(("a",) * 4 + ("b",) * 3 + ("c",) * 3, 4)
    assert miou_difference(first, second, dependence=three).units == 3


def test_the_best_of_many_equal_files_is_no_better():
    """Twelve files as good as the first: the best one's own interval excludes 0 far too often."""
    alone = together = 0
    for seed in range(60):
        first, *others = (matrices(60, 0.8, 100 * seed + number) for number in range(13))
        own = [difference_of(first, other) for other in others]
        joint = simultaneous_differences(first, others, dependence=independent(60))
        assert [i.difference for i in own] == pytest.approx([i.difference for i in joint])
        assert {interval.compared for interval in joint} == {12}
        best = max(range(12), key=lambda number: own[number].difference)
        alone += own[best].low > 0
        together += joint[best].low > 0
    assert alone >= 10
    assert together <= 5


def test_simultaneous_intervals_of_one_file_and_of_none():
    first, second = matrices(200, 0.8, 0), matrices(200, 0.85, 1)
    (joint,) = simultaneous_differences(first, [second], dependence=independent(200))
    own = difference_of(first, second)
    assert joint.low == pytest.approx(own.low, abs=0.1 * (own.high - own.low))
    assert joint.high == pytest.approx(own.high, abs=0.1 * (own.high - own.low))
    assert simultaneous_differences(first, [], dependence=independent(200)) == []
    nothing = np.zeros_like(first)
    (unknown,) = simultaneous_differences(nothing, [nothing], dependence=independent(200))
    assert np.isnan([unknown.difference, unknown.low, unknown.high]).all()

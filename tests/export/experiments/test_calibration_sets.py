"""Poor calibration sets are said, disjoint ones are disjoint, and two of them must agree."""

import logging

import numpy as np
import pytest

from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.bootstrap import Interval
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from export.conversion.calibration import calibrate, disjoint_samples
from export.experiments.calibration_stability import CalibrationStability, compare_files
from tests.children import run_command
from tests.paths import CAMVID
from tests.zoo import pixels, scenes, trained_float_model

INPUT_RANGE = (-1.0, 127 / 128)


@pytest.fixture(scope="module")
def drawn():
    return open_dataset("synthetic", "", split="train")


def test_disjoint_sets(drawn):
    sets = disjoint_samples(drawn, (5, 5, 7), seed=3)
    assert [len(chosen) for chosen in sets] == [5, 5, 7]
    assert len(set().union(*sets)) == 17
    assert sets == disjoint_samples(drawn, (5, 5, 7), seed=3)
    assert sets != disjoint_samples(drawn, (5, 5, 7), seed=4)
    with pytest.raises(ValueError, match=r"at least \d+ \+ 1 different images, split .* has"):
        disjoint_samples(drawn, (len(drawn), 1), seed=0)


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ((0,), "ranges are measured on one image:"),
        ((0, 0, 0), "ranges are measured on one image repeated 3 times"),
        ((0, 1, 1), "1 of 3 calibration images are repeated"),
    ],
)
def test_poor_sets_are_said(drawn, caplog, indices, message):
    with caplog.at_level(logging.WARNING, "absl"):
        images, _ = calibrate(
            Subset(drawn, indices, split="few"), (96, 128), count=len(indices), seed=0
        )
    assert images.shape == (len(indices), 96, 128, 3)
    assert message in caplog.text


def test_a_good_set_is_not_warned_of(drawn, caplog):
    with caplog.at_level(logging.WARNING, "absl"):
        calibrate(drawn, (96, 128), count=4, seed=0)
    assert not caplog.text


@pytest.mark.parametrize(
    "wrong",
    [pixels(2).astype(np.float32), pixels(2) / np.float32(255) * 4 - 2],
    ids=["0..255", "2"],
)
def test_images_that_are_not_normalized_are_refused(wrong):
    with pytest.raises(ValueError, match=r"expected calibration images within .* normalize them"):
        quantize_post_training(
            trained_float_model(), PostTraining(), batches=[wrong], input_range=INPUT_RANGE
        )


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="no calibration images; give at least one"):
        quantize_post_training(
            trained_float_model(), PostTraining(), batches=[scenes(1)[:0]], input_range=INPUT_RANGE
        )


def test_verdict_by_hand():
    def found(change):
        return CalibrationStability(
            (0.5, 0.5 + change),
            Interval(change, -0.1, high=0.1),
            bound=0.01,
            calibration_images=8,
            score_images=4,
        )

    assert found(0.01).stable
    assert found(-0.01).stable
    assert not found(-0.011).stable
    assert "NOT STABLE: 8 calibration images are too few" in found(0.02).lines()[-1]
    assert len(found(0.0).lines()) == 2


def test_a_stray_pixel_does_not_make_a_calibration_unstable():
    """One of 300,000 pixels goes to a class that no photo holds: 10 points between the two means
    over each file's own classes, 1 / 33,360 of class 0 over those of both."""
    first = np.zeros((30, 10, 11), np.int64)
    first[:, range(9), range(9)] = 1111
    first[:, 0, 0] += 1
    second = first.copy()
    second[0, 0, 0] -= 1
    second[0, 0, 9] += 1
    found = compare_files(first, second, bound=0.001, calibration_images=8)
    assert found.stable
    assert found.mious[1] - found.mious[0] == pytest.approx(found.difference.difference, abs=1e-12)
    assert (found.calibration_images, found.score_images) == (8, 30)
    with pytest.raises(RuntimeError, match="no class in common"):
        compare_files(
            np.zeros((2, 3, 4), np.int64),
            np.zeros((2, 3, 4), np.int64),
            bound=0.001,
            calibration_images=8,
        )


@pytest.mark.slow
def test_command_on_real_photos(shared_dir):
    def check(*flags):
        return run_command(
            "export.check_calibration",
            f"--run_dir={CAMVID}",
            f"--data_dir={shared_dir / 'data' / 'camvid'}",
            "--calibration_images=2",
            "--score_images=4",
            *flags,
            timeout=600,
        )

    good = check("--bound=0.2")
    assert good.returncode == 0, good.stderr[-2000:]
    assert "two disjoint sets of 2 images: mIoU" in good.stdout
    strict = check("--bound=1e-9")
    assert strict.returncode == 1
    assert "NOT STABLE: 2 calibration images are too few" in strict.stdout

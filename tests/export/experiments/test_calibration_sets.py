"""Poor calibration sets are said, disjoint ones are disjoint, and two of them must agree."""

import logging

import numpy as np
import pytest

from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.bootstrap import Interval
from deeplab_tf.metrics.resampling import Dependence
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from export.conversion.calibration import calibrate, disjoint_samples
from export.experiments.calibration_stability import (
    CalibrationStability,
    PairDifference,
    Verdict,
    compare_files,
)
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


def pair(change, low, high, units=30):
    interval = Interval(change, low, high=high, unit="images", units=units, independent=units)
    return PairDifference((0.5, 0.5 + change), interval)


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (pair(0.0, -0.01, 0.01), Verdict.STABLE),
        (pair(0.009, 0.008, 0.01), Verdict.STABLE),  # significant, and small all the same
        (pair(0.0, -0.011, 0.005), Verdict.UNKNOWN),
        (pair(0.0, -0.005, 0.011), Verdict.UNKNOWN),
        (pair(0.0, np.nan, np.nan, units=4), Verdict.UNKNOWN),
        (pair(0.011, -0.1, 0.1), Verdict.UNSTABLE),
        (pair(-0.011, -0.1, 0.1), Verdict.UNSTABLE),
    ],
)
def test_a_pair_is_equivalent_where_its_interval_lies_within_the_bound(found, verdict):
    assert found.verdict(0.01) is verdict


def test_verdict_of_several_pairs_is_that_of_the_worst():
    def stability(*pairs):
        return CalibrationStability(pairs, bound=0.01, calibration_images=8, score_images=30)

    good, unknown, bad = pair(0, -0.01, 0.01), pair(0, -0.1, 0.1), pair(0.02, 0.01, 0.03)
    assert stability(good, good).verdict is Verdict.STABLE
    assert stability(good, good).lines()[-1].startswith("STABLE")
    assert stability(good, unknown).verdict is Verdict.UNKNOWN
    assert "NOT SHOWN: differences are small, but 30 images" in stability(unknown).lines()[-1]
    assert stability(unknown, bad, good).verdict is Verdict.UNSTABLE
    assert "NOT STABLE: 8 calibration images are too few; try 16" in stability(bad).lines()[-1]
    few = stability(pair(0.0, np.nan, np.nan, units=4))
    assert "too few independent images (4) for an interval" in few.lines()[1]


def test_a_stray_pixel_does_not_make_a_calibration_unstable():
    """One of 300,000 pixels goes to a class that no photo holds: 10 points between the two means
    over each file's own classes, 1 / 33,360 of class 0 over those of both."""
    first = np.zeros((30, 10, 11), np.int64)
    first[:, range(9), range(9)] = 1111
    first[:, 0, 0] += 1
    second = first.copy()
    second[0, 0, 0] -= 1
    second[0, 0, 9] += 1
    alone = Dependence(tuple(f"photo {number}" for number in range(30)))
    found = compare_files(first, second, dependence=alone)
    assert found.verdict(0.001) is Verdict.STABLE
    assert found.mious[1] - found.mious[0] == pytest.approx(found.difference.difference, abs=1e-12)
    with pytest.raises(RuntimeError, match="no class in common"):
        compare_files(
            np.zeros((2, 3, 4), np.int64), np.zeros((2, 3, 4), np.int64), dependence=Dependence()
        )


@pytest.mark.slow
def test_command_on_real_photos(shared_dir):
    def check(*flags):
        return run_command(
            "export.check_calibration",
            f"--run_dir={CAMVID}",
            f"--data_dir={shared_dir / 'data' / 'camvid'}",
            "--calibration_images=4",
            "--score_images=24",
            *flags,
            timeout=900,
        )

    # Measured: -0.05 [-0.26, +0.15] points over 13 blocks of 2 images.
    good = check("--pairs=1", "--bound=0.01")
    assert good.returncode == 0, good.stdout + good.stderr[-2000:]
    assert "1 pair(s) of disjoint sets of 4 images, scored on 24 other images" in good.stdout
    assert "STABLE: every interval lies within the bound" in good.stdout


def test_command_says_that_a_list_is_too_short(shared_dir):
    done = run_command(
        "export.check_calibration",
        f"--run_dir={CAMVID}",
        f"--data_dir={shared_dir / 'data' / 'camvid'}",
        "--calibration_images=100",
        timeout=300,
    )
    assert done.returncode == 1
    assert "expected at least 100 + 100 + 100 + 100 + 96 different images" in done.stderr

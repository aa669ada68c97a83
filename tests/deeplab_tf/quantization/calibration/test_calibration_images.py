"""Photos that would spoil the ranges are refused; photos that say little are warned of."""

import logging

import numpy as np
import pytest

from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.quantization.calibration.checks import check_images
from deeplab_tf.quantization.ptq.bias_correction import correct_empirically
from deeplab_tf.quantization.ptq.post_training import (
    BiasMethod,
    PostTraining,
    quantize_post_training,
)
from tests.deeplab_tf.quantization.networks import chain, images, with_true_batch_norms

INPUT_RANGE = (-1.0, 127 / 128)
IMAGENET_RANGE = (-2.118, 2.64)


def bytes_of(count: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3))


def photos(count: int = 4) -> np.ndarray:
    return ((bytes_of(count) - 128) / 128).astype(np.float32)


def warnings_of(caplog, batches, input_range=INPUT_RANGE) -> str:
    with caplog.at_level(logging.WARNING, "absl"):
        check_images(batches, input_range)
    return caplog.text


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("batch", [0, 1])
def test_images_that_are_not_finite_are_rejected(batch, value):
    batches = [photos(), photos()]
    batches[batch][2, 3, 4, 1] = value
    plan = PostTraining(bias=BiasMethod.EMPIRICAL)
    message = f"calibration batch {batch} contains NaN or infinity"
    with pytest.raises(ValueError, match=message):
        quantize_post_training(
            with_true_batch_norms(photos()), plan, batches=batches, input_range=INPUT_RANGE
        )


def test_bias_correction_alone_rejects_them_too():
    folded = fold_batch_norms(*chain())
    good = images(folded.description)
    with pytest.raises(ValueError, match="calibration batch 1 contains NaN or infinity"):
        correct_empirically(
            folded.description, folded.arrays, batches=[good, good * np.nan], ranges={}
        )


def test_empty_batches_change_nothing():
    model = with_true_batch_norms(photos())
    plan = PostTraining(absorb=True, bias=BiasMethod.EMPIRICAL)
    batches = [photos()[:0], photos(), photos()[:0]]
    found = quantize_post_training(model, plan, batches=batches, input_range=INPUT_RANGE)
    wanted = quantize_post_training(model, plan, batches=[photos()], input_range=INPUT_RANGE)
    assert found.ranges == wanted.ranges
    np.testing.assert_array_equal(found.arrays["logits/bias"], wanted.arrays["logits/bias"])


def marked(batch: np.ndarray) -> np.ndarray:
    """As `export.conversion.calibration` gives them: two pixels of the first are 0 and 255."""
    batch = batch.copy()
    batch[0, 0, 0], batch[0, 0, 1] = INPUT_RANGE
    return batch


@pytest.mark.parametrize("mark", [np.copy, marked])
@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ((0,), "ranges are measured on one image:"),
        ((0, 0, 0), "ranges are measured on one image repeated 3 times"),
        ((0, 1, 0), "1 of 3 calibration images are repeated"),
    ],
)
def test_repeated_images_are_warned_about(caplog, chosen, message, mark):
    batch = mark(photos()[list(chosen)])
    with caplog.at_level(logging.WARNING, "absl"):
        quantize_post_training(
            with_true_batch_norms(photos()),
            PostTraining(),
            batches=[batch[:2], batch[2:]],
            input_range=INPUT_RANGE,
        )
    assert message in caplog.text


@pytest.mark.parametrize("input_range", [INPUT_RANGE, (-1.0, 1.0), IMAGENET_RANGE])
def test_images_from_0_to_1_are_warned_about(caplog, input_range):
    batches = [(bytes_of(4, seed) / 255).astype(np.float32) for seed in (1, 2)]
    assert "lie within 0..1" in warnings_of(caplog, batches, input_range)


def lidar() -> np.ndarray:
    """Bytes of a scan as `data.range_image` codes it: 128 at empty pixels and at each mean."""
    random = np.random.default_rng(3)
    values = np.rint(128 + 128 * random.normal(size=(2, 16, 64, 5)) / 3).clip(0, 255)
    values[random.uniform(size=values.shape[:3]) < 0.6] = 128
    return ((values - 128) / 128).astype(np.float32)


@pytest.mark.parametrize(
    ("batch", "input_range"),
    [
        (photos(), INPUT_RANGE),
        (bytes_of(4) / 255.0, (0.0, 1.0)),
        (bytes_of(4) * 1.0, (0.0, 255.0)),
        ((bytes_of(4) / 255 - 0.45) / 0.225, IMAGENET_RANGE),
        (lidar(), INPUT_RANGE),
        # Logarithms of distances: little of the range is negative, and nothing need be.
        (bytes_of(4) / 255.0, (-0.1, 1.0)),
        (np.abs(photos()) * 8, (-1.0, 8.0)),
    ],
    ids=["photos", "0..1", "0..255", "imagenet", "lidar", "logarithms", "distances"],
)
def test_good_sets_give_no_warning(caplog, batch, input_range):
    assert not warnings_of(caplog, [batch], input_range)

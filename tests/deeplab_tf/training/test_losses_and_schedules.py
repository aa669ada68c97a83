"""Losses, weights and schedules against numbers worked out by hand."""

import math

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.training.losses import ClassWeighting, class_weights, segmentation_loss
from deeplab_tf.training.schedules import Decay, OptimizerName, Schedule, build_optimizer

EVEN = np.ones(2, np.float32)


def one_row(labels, logits, weights=EVEN, smoothing=0.0):
    label = tf.constant([[labels]], tf.uint8)
    return float(
        segmentation_loss(
            label, tf.constant([[logits]], tf.float32), weights=weights, label_smoothing=smoothing
        )
    )


def test_cross_entropy_is_the_mean_over_labelled_pixels():
    # Two pixels: -log softmax([2, 0])[0] = log(1 + e^-2); -log softmax([0, 1])[0] = log(1 + e).
    expected = (math.log(1 + math.exp(-2)) + math.log(1 + math.e)) / 2
    assert one_row([0, 0], [[2, 0], [0, 1]]) == pytest.approx(expected, rel=1e-6)


def test_ignored_pixels_do_not_count():
    with_ignored = one_row([0, 255, 0], [[2, 0], [50, -50], [0, 1]])
    assert with_ignored == pytest.approx(one_row([0, 0], [[2, 0], [0, 1]]), rel=1e-6)
    assert one_row([255, 255], [[2, 0], [0, 1]]) == 0.0


def test_class_weights_weigh_numerator_and_denominator():
    a, b = math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))
    weighted = one_row([0, 1], [[2, 0], [1, 0]], np.array([1, 3], np.float32))
    assert weighted == pytest.approx((a + 3 * b) / 4, rel=1e-6)


def test_label_smoothing_spreads_the_target_over_all_classes():
    p = 1 / (1 + math.exp(-2))
    expected = -(0.9 + 0.05) * math.log(p) - 0.05 * math.log(1 - p)
    assert one_row([0], [[2, 0]], smoothing=0.1) == pytest.approx(expected, rel=1e-5)


def test_small_logits_are_resized_to_the_label():
    label = tf.zeros([1, 8, 8], tf.uint8)
    logits = tf.constant(np.random.default_rng(0).normal(size=(1, 2, 2, 2)), tf.float32)
    resized = tf.image.resize(logits, (8, 8))
    direct = segmentation_loss(label, resized, weights=EVEN)
    np.testing.assert_allclose(segmentation_loss(label, logits, weights=EVEN), direct, rtol=1e-6)


def test_median_frequency_and_enet_weights_by_hand():
    pixels, present = np.array([60, 20, 10, 0]), np.array([100, 100, 40, 0])
    # frequencies 0.6, 0.2, 0.25; their median is 0.25; a class that never occurs weighs 1
    np.testing.assert_allclose(
        class_weights(ClassWeighting.MEDIAN_FREQUENCY, pixels, present=present),
        [0.25 / 0.6, 0.25 / 0.2, 1, 1],
        rtol=1e-6,
    )
    shares = [60 / 90, 20 / 90, 10 / 90]
    np.testing.assert_allclose(
        class_weights(ClassWeighting.ENET, pixels, present=present),
        [*(1 / math.log(1.02 + share) for share in shares), 1],
        rtol=1e-6,
    )
    assert class_weights(ClassWeighting.NONE, pixels, present=present).tolist() == [1, 1, 1, 1]


def test_poly_decay_warms_up_and_ends_at_zero():
    schedule = Decay(0.1, total_steps=100, power=0.9, warmup_steps=4)
    assert float(schedule(0)) == pytest.approx(0.1 / 4)
    assert float(schedule(1)) == pytest.approx(0.1 * 0.99**0.9 / 2, rel=1e-6)
    assert float(schedule(50)) == pytest.approx(0.1 * 0.5**0.9, rel=1e-6)
    assert float(schedule(100)) == 0.0
    assert float(schedule(150)) == 0.0


@pytest.mark.parametrize("name", list(OptimizerName))
def test_weight_decay_shrinks_kernels_and_spares_batch_norm(name):
    kernel = tf.Variable([2.0], name="conv/kernel")
    gamma = tf.Variable([2.0], name="bn/gamma")
    optimizer = build_optimizer(name, Decay(0.5, 10, power=1.0), weight_decay=0.1)
    optimizer.build([kernel, gamma])
    optimizer.apply_gradients([(tf.zeros([1]), kernel), (tf.zeros([1]), gamma)])
    # No gradient: all that moves a variable is rate * decay * value = 0.5 * 0.1 * 2.
    assert kernel.numpy()[0] == pytest.approx(2.0 - 0.5 * 0.1 * 2.0, rel=1e-5)
    assert gamma.numpy()[0] == 2.0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule.FIXED, {0: 1, 49: 1, 100: 1}),
        (Schedule.STEP, {0: 1, 49: 1, 50: 0.1, 74: 0.1, 75: 0.01, 100: 0.01}),
        (Schedule.COSINE, {0: 1, 50: 0.5, 25: (1 + np.sqrt(0.5)) / 2, 100: 0}),
        (Schedule.POLY, {0: 1, 50: 0.5**0.9, 100: 0}),
    ],
)
def test_schedules_by_hand(schedule, expected):
    decay = Decay(0.2, 100, schedule=schedule)
    for step, factor in expected.items():
        assert float(decay(step)) == pytest.approx(0.2 * factor, abs=1e-7)

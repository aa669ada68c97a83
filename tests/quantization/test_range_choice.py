"""Ranges from histograms, against tensors whose best range is known."""

import numpy as np
import pytest

from deeplab_tf.models.imported import NetworkDescription, Node
from deeplab_tf.quantization.range_choice import (
    NUM_BINS,
    Histogram,
    RangeMethod,
    choose_range,
    observe,
)


def histogram(values) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, np.histogram(values, NUM_BINS, (low, high))[0])


def outlier_tensor():
    """A million values in [0, 1] and one of 50."""
    random = np.random.default_rng(0)
    return np.append(random.uniform(0, 1, 1_000_000), 50.0)


def squared_error(values, low, high):
    scale = (high - low) / 255
    return np.square(np.clip(np.rint((values - low) / scale), 0, 255) * scale + low - values).mean()


def test_min_max_holds_everything_and_zero():
    assert choose_range(histogram(np.array([2.0, 3.0, 7.0])), RangeMethod.MIN_MAX) == (0.0, 7.0)
    low, high = choose_range(histogram(np.array([-4.0, -1.0])), RangeMethod.MIN_MAX)
    assert (low, high) == (-4.0, 0.0)


@pytest.mark.parametrize("method", [RangeMethod.PERCENTILE, RangeMethod.KL])
def test_one_outlier_does_not_set_the_range(method):
    low, high = choose_range(histogram(outlier_tensor()), method)
    assert low == 0.0
    assert 0.9 < high < 2


def test_mse_beats_min_max_by_what_it_measures():
    random = np.random.default_rng(1)
    values = random.standard_t(3, 200_000)  # heavy tails
    chosen = squared_error(values, *choose_range(histogram(values), RangeMethod.MSE))
    everything = squared_error(values, values.min(), values.max())
    assert chosen < 0.75 * everything
    ends = (values.min() * f for f in np.linspace(0.05, 1, 60))
    best = min(squared_error(values, low, -low) for low in ends)
    assert chosen < 1.2 * best


def test_constant_tensor_and_dead_channel_have_a_range():
    for method in RangeMethod:
        assert choose_range(histogram(np.full(10, 3.0)), method) == (0.0, 3.0)
        assert choose_range(histogram(np.zeros(10)), method) == (0.0, 0.0)


def test_observed_values_are_counted_over_all_photos():
    node = Node(
        "double", "elementwise_constant", ("image",), {"operation": "multiply", "shape": []}
    )
    description = NetworkDescription("image", (1, 4, 1), (node,), "double")
    batches = [np.array(v, np.float32).reshape(1, 1, 4, 1) for v in ([0, 1, 2, 3], [-1, 0, 0, 4])]
    arrays = {"double/constant": np.float32(2)}
    found = observe(description, arrays, ["double"], batches)["double"]
    assert (found.low, found.high, found.counts.sum()) == (-2.0, 8.0, 8)
    # bins of 10 / 2048; 0 lies at 2 / 10 of the way and occurs three times
    assert found.counts[int(2 / 10 * NUM_BINS)] == 3
    with pytest.raises(ValueError, match="no calibration images"):
        observe(description, arrays, ["double"], [])
    broken = [np.full((1, 1, 4, 1), np.nan, np.float32)]
    with pytest.raises(ValueError, match="double gives NaN or infinity"):
        observe(description, arrays, ["double"], broken)

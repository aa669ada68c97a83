"""Ranges from histograms, against tensors whose best range is known."""

import numpy as np
import pytest

from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.calibration.activation_ranges import (
    ALL_ZERO_RANGE,
    NUM_BINS,
    Histogram,
    RangeMethod,
    choose_range,
    observe,
    with_zero,
)


def histogram(values) -> Histogram:
    low, high = float(values.min()), float(values.max())
    return Histogram(low, high, counts=np.histogram(values, NUM_BINS, (low, high))[0])


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


def test_percentile_clips_one_of_ten_thousand_at_each_end():
    """A million values, even from -2 to 6: 100 of them lie below -1.9992 and above 5.9992."""
    values = np.linspace(-2, 6, 1_000_000)
    low, high = choose_range(histogram(values), RangeMethod.PERCENTILE)
    width = 8 / NUM_BINS
    assert low == pytest.approx(-2 + 1e-4 * 8, abs=width)
    assert high == pytest.approx(6 - 1e-4 * 8, abs=width)
    tails = np.concatenate([values, np.full(250, -20.0), np.full(250, 60.0)])
    low, high = choose_range(histogram(tails), RangeMethod.PERCENTILE)
    # 0.025 % lie beyond each end, more than is clipped: the ends hold them.
    width = 80 / NUM_BINS
    assert low == pytest.approx(-20, abs=width)
    assert high == pytest.approx(60, abs=width)
    fewer = np.concatenate([values, np.full(50, -20.0), np.full(50, 60.0)])
    low, high = choose_range(histogram(fewer), RangeMethod.PERCENTILE)
    assert low == pytest.approx(-2, abs=2 * width)
    assert high == pytest.approx(6, abs=2 * width)


@pytest.mark.parametrize("mirrored", [False, True])
def test_each_end_is_searched_by_itself(mirrored):
    """Dense values in -1..1 and one outlier at one end only: that end alone is clipped."""
    random = np.random.default_rng(0)
    values = np.append(random.uniform(-1, 1, 1_000_000), 40.0)
    if mirrored:
        values = -values
    low, high = choose_range(histogram(values), RangeMethod.KL)
    outer, inner = (-low, high) if mirrored else (high, -low)
    assert 0.9 < inner <= 1.0
    assert 0.8 < outer < 2.5


def test_both_ends_of_the_mse_range_are_those_of_a_full_search():
    """Unlike tails: the common fraction of both ends is best for neither."""
    random = np.random.default_rng(3)
    values = np.where(
        random.uniform(size=200_000) < 0.5,
        -np.abs(random.normal(size=200_000)),
        3 * np.abs(random.standard_t(3, 200_000)),
    )
    low, high = choose_range(histogram(values), RangeMethod.MSE)
    chosen = squared_error(values, low, high)
    fractions = np.geomspace(0.02, 1, 40)
    full = min(
        squared_error(values, values.min() * a, values.max() * b)
        for a in fractions
        for b in fractions
    )
    assert chosen < 1.02 * full


def relu_of_normal(threshold: float):
    """A ReLU's output, float64 [2000000]: 0 wherever a standard normal is below the threshold."""
    return np.maximum(np.random.default_rng(0).normal(size=2_000_000) - threshold, 0)


@pytest.mark.parametrize("threshold", [0.0, 1.65])  # half and 95 % of the values are 0
def test_kl_does_not_clip_a_relu_for_its_zeros(threshold):
    values = relu_of_normal(threshold)
    low, high = choose_range(histogram(values), RangeMethod.KL)
    assert low == 0.0
    # Zeros cost nothing in any range. Clipped for their sake it was at 15 dB, min-max has 45.
    assert high > 0.8 * values.max()
    signal = np.square(values).mean()
    assert 10 * np.log10(signal / squared_error(values, low, high)) > 38


def test_kl_knows_zeros_of_a_tensor_with_both_signs():
    random = np.random.default_rng(2)
    dense = random.laplace(size=500_000)
    sparse = np.append(dense, np.zeros(5_000_000))  # gated
    wanted, found = (choose_range(histogram(v), RangeMethod.KL) for v in (dense, sparse))
    np.testing.assert_allclose(found, wanted, rtol=0.02)


def test_constant_tensor_and_dead_channel_have_a_range():
    for method in RangeMethod:
        assert choose_range(histogram(np.full(10, 3.0)), method) == (0.0, 3.0)
        assert choose_range(histogram(np.zeros(10)), method) == ALL_ZERO_RANGE
        assert choose_range(histogram(np.full(10, 1e-9)), method) == ALL_ZERO_RANGE


def test_range_holds_zero_and_is_never_empty():
    assert with_zero(2.0, 3.0) == (0.0, 3.0)
    assert with_zero(-4.0, -1.0) == (-4.0, 0.0)
    assert with_zero(0.0, 0.0) == ALL_ZERO_RANGE
    assert with_zero(0.0, 1e-5) == (0.0, 1e-5)


def test_observed_values_are_counted_over_all_images():
    node = Node(
        "double",
        "elementwise_constant",
        inputs=("image",),
        attributes={"operation": "multiply", "shape": []},
    )
    description = NetworkGraph("image", (1, 4, 1), nodes=(node,), output_name="double")
    batches = [np.array(v, np.float32).reshape(1, 1, 4, 1) for v in ([0, 1, 2, 3], [-1, 0, 0, 4])]
    arrays = {"double/constant": np.float32(2)}
    found = observe(description, arrays, names=["double"], batches=batches)["double"]
    assert (found.low, found.high, found.counts.sum()) == (-2.0, 8.0, 8)
    # bins of 10 / 2048; 0 lies at 2 / 10 of the way and occurs three times
    assert found.counts[int(2 / 10 * NUM_BINS)] == 3
    with pytest.raises(ValueError, match="no calibration images"):
        observe(description, arrays, names=["double"], batches=[])
    broken = [np.full((1, 1, 4, 1), np.nan, np.float32)]
    with pytest.raises(ValueError, match="double gives NaN or infinity"):
        observe(description, arrays, names=["double"], batches=broken)


def test_tensor_that_is_always_zero_is_named(caplog):
    nodes = (Node("dead", "relu", inputs=("image",)), Node("sum", "add", inputs=("dead", "image")))
    description = NetworkGraph("image", (1, 4, 1), nodes=nodes, output_name="sum")
    batch = np.full((1, 1, 4, 1), -2, np.float32)
    found = observe(description, {}, names=["dead", "sum"], batches=[batch])
    assert choose_range(found["dead"], RangeMethod.MSE) == ALL_ZERO_RANGE
    assert choose_range(found["sum"], RangeMethod.MSE) == (-2.0, 0.0)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == (
        "dead is 0 on every calibration image; its range -6 to 6 is a guess: calibrate with "
        "images on which it is not 0"
    )

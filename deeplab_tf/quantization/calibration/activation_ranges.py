"""Choice of activation ranges: all observed values, or fewer of them with finer steps.

An 8-bit range [low, high] has steps of (high - low) / 255. A narrower range has finer steps and
clips the tails. The methods here work on a histogram of each tensor over all calibration images.
"""

import dataclasses
import enum
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from absl import logging

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights, pixel_weights

NUM_BINS = 2048
LEVELS = 256
_FRACTIONS = np.geomspace(0.02, 1.0, 100)
"""Candidates, as fractions of the observed range."""


class RangeMethod(enum.Enum):
    """Method by which a range is chosen from observed values."""

    MIN_MAX = "min_max"
    """Smallest and largest value over all images."""
    PERCENTILE = "percentile"
    """Clips 0.01 % of the values at each end."""
    MSE = "mse"
    """Smallest mean squared error of rounding and clipping together."""
    KL = "kl"
    """Smallest Kullback-Leibler divergence of the quantized histogram from the observed one (Migacz
    2017, TensorRT)."""


PERCENTILE = 99.99

ALL_ZERO_RANGE = (-6.0, 6.0)
"""Range of a tensor that is 0 on all calibration images.

0 is exact in every range. A scale near 0 would overflow the next layer's int32 bias, whose steps
are this scale times that of the weights. +-6 covers a ReLU6 or a normalized value on other images
and gives that bias steps of a few ten-thousandths of the largest weight."""
_ZERO_TOLERANCE = 1e-6
"""Values closer to 0 than this count as 0: rounding errors, or a saturated sigmoid."""


@dataclasses.dataclass
class Histogram:
    """Histogram of the values of one tensor.

    Attributes:
        low: smallest value.
        high: largest value.
        counts: float64 [NUM_BINS], in equal bins from low to high.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        """Centres of the bins, float64 [NUM_BINS]."""
        edges = np.linspace(self.low, self.high, NUM_BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def observe(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    names: list[str],
    batches: list[np.ndarray],
    ignore_empty: bool = False,
) -> dict[str, Histogram]:
    """Computes histograms of node outputs over calibration images, in two passes.

    Args:
        description: the float network.
        arrays: its weights.
        names: nodes to observe.
        batches: float32 [batch, height, width, channels], normalized.
        ignore_empty: whether to exclude empty pixels (`empty_pixels`).

    Returns:
        {node: histogram}.

    Raises:
        ValueError: no images, or a value that is not finite.
    """
    if not batches:
        raise ValueError("no calibration images; give at least one")
    observed = set(names)
    ends = dict.fromkeys(names, (np.inf, -np.inf))
    weights_of_batches = pixel_weights(batches, ignore_empty)
    executor = Executor(description, arrays)

    def widen(node: Node, value: tf.Tensor, *, weights: PixelWeights | None) -> None:
        if node.name in observed:
            values = _weighted_values(value, weights)[0]
            low, high = ends[node.name]
            ends[node.name] = (
                min(low, float(values.min(initial=np.inf))),
                max(high, float(values.max(initial=-np.inf))),
            )

    for batch, weights in zip(batches, weights_of_batches, strict=True):
        executor.run(batch, functools.partial(widen, weights=weights))
    for name, (low, high) in ends.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(
                f"{name} gives NaN or infinity on the calibration images; check the weights"
            )
    histograms = {
        name: Histogram(low, high, counts=np.zeros(NUM_BINS)) for name, (low, high) in ends.items()
    }

    def count(node: Node, value: tf.Tensor, *, weights: PixelWeights | None) -> None:
        histogram = histograms.get(node.name)
        if histogram is not None:
            values, shares = _weighted_values(value, weights)
            histogram.counts += _bin_counts(
                values, histogram.low, high=histogram.high, weights=shares
            )

    for batch, weights in zip(batches, weights_of_batches, strict=True):
        executor.run(batch, functools.partial(count, weights=weights))
    _warn_about_zeros(histograms)
    return histograms


def _weighted_values(
    value: tf.Tensor, weights: PixelWeights | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the values of the positions that count, [values], and their weights, None for 1."""
    if weights is None:
        return np.asarray(value).ravel(), None
    shares, channels = weights.of(value), value.shape[-1]
    counting = shares > 0
    values = np.asarray(value).reshape(-1, channels)[counting]
    return values.ravel(), np.repeat(shares[counting], channels)


def _warn_about_zeros(histograms: dict[str, Histogram]) -> None:
    for name, histogram in histograms.items():
        if _is_zero(histogram.low, histogram.high):
            logging.warning(
                "%s is 0 on every calibration image; its range %g to %g is a guess: calibrate "
                "with images on which it is not 0",
                name,
                *ALL_ZERO_RANGE,
            )


def with_zero(low: float, high: float) -> tuple[float, float]:
    """Extends a range to include 0, as TFLite requires.

    Args:
        low: lower end.
        high: upper end.

    Returns:
        The range; `ALL_ZERO_RANGE` if both ends are 0.
    """
    return ALL_ZERO_RANGE if _is_zero(low, high) else (min(low, 0.0), max(high, 0.0))


def _is_zero(low: float, high: float) -> bool:
    return max(-low, high) < _ZERO_TOLERANCE


def _bin_counts(
    values: np.ndarray, low: float, *, high: float, weights: np.ndarray | None = None
) -> np.ndarray:
    """Counts values in NUM_BINS equal bins from low to high."""
    width = (high - low) / NUM_BINS
    if width <= 0:
        return np.bincount([0] * len(values), weights, minlength=NUM_BINS)
    index = ((values - low) * np.float32(1 / width)).astype(np.int32)
    return np.bincount(np.clip(index, 0, NUM_BINS - 1), weights, minlength=NUM_BINS)


def choose_range(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    """Chooses the range of one tensor.

    Args:
        histogram: of its values.
        method: how the range is chosen.

    Returns:
        (min, max), with 0 inside, as TFLite requires, and min < max.
    """
    low, high = with_zero(histogram.low, histogram.high)
    one_value = histogram.low == histogram.high
    if method is RangeMethod.MIN_MAX or one_value or _is_zero(histogram.low, histogram.high):
        return low, high
    if method is RangeMethod.PERCENTILE:
        share = np.cumsum(histogram.counts) / histogram.counts.sum()
        edges = np.linspace(histogram.low, histogram.high, NUM_BINS + 1)
        below = edges[np.searchsorted(share, 1 - PERCENTILE / 100)]
        above = edges[np.searchsorted(share, PERCENTILE / 100) + 1]
        return min(float(below), 0.0), max(float(above), 0.0)
    cost = _squared_error if method is RangeMethod.MSE else _divergence
    return _search(histogram, low, high=high, cost=cost)


def _search(
    histogram: Histogram,
    low: float,
    *,
    high: float,
    cost: Callable[[Histogram, float, float], float],
) -> tuple[float, float]:
    """Searches the best common fraction of both ends, then of each end."""
    best = min(((low * f, high * f) for f in _FRACTIONS), key=lambda ends: cost(histogram, *ends))
    if low < 0 < high:
        best = min(((low * f, best[1]) for f in _FRACTIONS), key=lambda e: cost(histogram, *e))
        best = min(((best[0], high * f) for f in _FRACTIONS), key=lambda e: cost(histogram, *e))
    return float(best[0]), float(best[1])


def _squared_error(histogram: Histogram, low: float, high: float) -> float:
    centers = histogram.centers
    scale = (high - low) / (LEVELS - 1)
    rounded = np.clip(np.rint((centers - low) / scale), 0, LEVELS - 1) * scale + low
    return float(histogram.counts @ np.square(centers - rounded))


def _divergence(histogram: Histogram, low: float, high: float) -> float:
    """Computes KL(observed, tails moved to the ends || observed, averaged within each level)."""
    centers, counts = histogram.centers, _without_peak_at_zero(histogram)
    inside = (centers >= low) & (centers <= high)
    if not inside.any():
        return np.inf
    expected = counts[inside]
    expected[0] += counts[centers < low].sum()
    expected[-1] += counts[centers > high].sum()
    scale = (high - low) / (LEVELS - 1)
    level = np.clip(np.rint((centers[inside] - low) / scale), 0, LEVELS - 1).astype(int)
    alive = counts[inside] > 0
    total = np.bincount(level, counts[inside] * alive, LEVELS)
    share = np.bincount(level, alive, LEVELS)
    averaged = np.where(alive, (total / np.maximum(share, 1))[level], 0.0)
    expected, averaged = expected / expected.sum(), averaged / max(averaged.sum(), 1e-12)
    positive = expected > 0
    ratio = expected[positive] / np.maximum(averaged[positive], 1e-12)
    return float(np.sum(expected[positive] * np.log(ratio)))


def _without_peak_at_zero(histogram: Histogram) -> np.ndarray:
    """Returns the counts, float64, with the bin of 0 lowered to the mean of its neighbours.

    Half of the outputs of a ReLU are 0. They are exact in every range, but a bin that dominates all
    others would select a range in which it has a level of its own, and clip the rest.
    """
    counts = histogram.counts.astype(np.float64)
    if histogram.low <= 0 <= histogram.high:
        here = int(
            _bin_counts(np.zeros(1, np.float32), histogram.low, high=histogram.high).argmax()
        )
        neighbours = [i for i in (here - 1, here + 1) if 0 <= i < NUM_BINS]
        counts[here] = counts[neighbours].mean()
    return counts

"""Which range an activation gets: everything that was seen, or less of it for finer steps.

An 8-bit range [low, high] has steps of (high - low) / 255. A narrower one rounds finer and cuts
off the tails. The choices here work on a histogram of each tensor over all calibration photos.
"""

import dataclasses
import enum
import functools

import numpy as np
from absl import logging

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.network import NetworkDescription, Node
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights, pixel_weights

NUM_BINS = 2048
LEVELS = 256
_FRACTIONS = np.geomspace(0.02, 1.0, 100)
"""Candidates: shares of the observed range."""


class RangeMethod(enum.Enum):
    """How a range is chosen from what was observed."""

    MIN_MAX = "min_max"
    """Smallest and largest value of all photos."""
    PERCENTILE = "percentile"
    """0.01 % of the values cut off at each end."""
    MSE = "mse"
    """Least mean squared error of rounding and cutting off together."""
    KL = "kl"
    """Least Kullback-Leibler divergence of the quantized histogram from the observed one (Migacz
    2017, TensorRT)."""


PERCENTILE = 99.99

ALL_ZERO_RANGE = (-6.0, 6.0)
"""Of a tensor that calibration saw nothing but 0 in.

0 is exact in every range. A scale near 0 lets the next layer's int32 bias, which has steps of
this scale times the weights', run over; +-6 holds what a ReLU6, or a normalized value, can become
on another photo, and leaves that bias steps of a few ten-thousandths of the largest weight."""
_SILENT = 1e-6
"""What stays nearer to 0 than this is as good as 0: rounding, or a saturated sigmoid."""


@dataclasses.dataclass
class Histogram:
    """What flowed through one tensor.

    Attributes:
        low, high: smallest and largest value.
        counts: float64 [NUM_BINS], over equal bins from low to high.
    """

    low: float
    high: float
    counts: np.ndarray

    @property
    def centers(self) -> np.ndarray:
        edges = np.linspace(self.low, self.high, NUM_BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def observe(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    names: list[str],
    batches: list[np.ndarray],
    ignore_empty: bool = False,
) -> dict[str, Histogram]:
    """Histograms of nodes over calibration photos; two passes over the network.

    Args:
        description, arrays: the float network.
        names: nodes to watch.
        batches: float32 [batch, height, width, channels], normalized.
        ignore_empty: leave empty pixels out (`empty_pixels`).

    Raises:
        ValueError: no photos, or a value that is not finite.
    """
    if not batches:
        raise ValueError("no calibration images; give at least one")
    watched = set(names)
    ends = dict.fromkeys(names, (np.inf, -np.inf))

    every = pixel_weights(batches, ignore_empty)

    executor = Executor(description, arrays)

    def widen(node: Node, value, *, weights) -> None:
        if node.name in watched:
            found = _counting(value, weights)[0]
            low, high = ends[node.name]
            ends[node.name] = (
                min(low, float(found.min(initial=np.inf))),
                max(high, float(found.max(initial=-np.inf))),
            )

    for batch, weights in zip(batches, every, strict=True):
        executor.run(batch, functools.partial(widen, weights=weights))
    for name, (low, high) in ends.items():
        if not (np.isfinite(low) and np.isfinite(high)):
            raise ValueError(f"{name} gives NaN or infinity on the calibration images")
    found = {
        name: Histogram(low, high, counts=np.zeros(NUM_BINS)) for name, (low, high) in ends.items()
    }

    def count(node: Node, value, *, weights) -> None:
        histogram = found.get(node.name)
        if histogram is not None:
            values, shares = _counting(value, weights)
            histogram.counts += _bin_counts(
                values, histogram.low, high=histogram.high, weights=shares
            )

    for batch, weights in zip(batches, every, strict=True):
        executor.run(batch, functools.partial(count, weights=weights))
    _warn_of_silence(found)
    return found


def _counting(value, weights: PixelWeights | None):
    """Values of the positions that count, [values], and each one's weight, or None for 1."""
    if weights is None:
        return np.asarray(value).ravel(), None
    shares, channels = weights.of(value), value.shape[-1]
    counting = shares > 0
    values = np.asarray(value).reshape(-1, channels)[counting]
    return values.ravel(), np.repeat(shares[counting], channels)


def _warn_of_silence(histograms: dict[str, Histogram]) -> None:
    for name, histogram in histograms.items():
        if _is_silent(histogram.low, histogram.high):
            logging.warning(
                "%s is 0 on every calibration image; its range is %g to %g, a guess: calibrate "
                "with images on which it is not",
                name,
                *ALL_ZERO_RANGE,
            )


def with_zero(low: float, high: float) -> tuple[float, float]:
    """A range with 0 inside, as TFLite requires; `ALL_ZERO_RANGE` for one of no width."""
    return ALL_ZERO_RANGE if _is_silent(low, high) else (min(low, 0.0), max(high, 0.0))


def _is_silent(low: float, high: float) -> bool:
    return max(-low, high) < _SILENT


def _bin_counts(values: np.ndarray, low: float, *, high: float, weights=None) -> np.ndarray:
    width = (high - low) / NUM_BINS
    if width <= 0:
        return np.bincount([0] * len(values), weights, minlength=NUM_BINS)
    index = ((values - low) * np.float32(1 / width)).astype(np.int32)
    return np.bincount(np.clip(index, 0, NUM_BINS - 1), weights, minlength=NUM_BINS)


def choose_range(histogram: Histogram, method: RangeMethod) -> tuple[float, float]:
    """The range of one tensor; holds 0, as TFLite requires, and is never empty."""
    low, high = with_zero(histogram.low, histogram.high)
    one_value = histogram.low == histogram.high
    if method is RangeMethod.MIN_MAX or one_value or _is_silent(histogram.low, histogram.high):
        return low, high
    if method is RangeMethod.PERCENTILE:
        share = np.cumsum(histogram.counts) / histogram.counts.sum()
        edges = np.linspace(histogram.low, histogram.high, NUM_BINS + 1)
        below = edges[np.searchsorted(share, 1 - PERCENTILE / 100)]
        above = edges[np.searchsorted(share, PERCENTILE / 100) + 1]
        return min(float(below), 0.0), max(float(above), 0.0)
    cost = _squared_error if method is RangeMethod.MSE else _divergence
    return _search(histogram, low, high=high, cost=cost)


def _search(histogram: Histogram, low: float, *, high: float, cost) -> tuple[float, float]:
    """Best common share of both ends, then of each end by itself."""
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
    """KL(observed with its tails at the ends || observed averaged within each level)."""
    centers, counts = histogram.centers, _without_spike_at_zero(histogram)
    inside = (centers >= low) & (centers <= high)
    if not inside.any():
        return np.inf
    wanted = counts[inside]
    wanted[0] += counts[centers < low].sum()
    wanted[-1] += counts[centers > high].sum()
    scale = (high - low) / (LEVELS - 1)
    level = np.clip(np.rint((centers[inside] - low) / scale), 0, LEVELS - 1).astype(int)
    alive = counts[inside] > 0
    total = np.bincount(level, counts[inside] * alive, LEVELS)
    share = np.bincount(level, alive, LEVELS)
    found = np.where(alive, (total / np.maximum(share, 1))[level], 0.0)
    wanted, found = wanted / wanted.sum(), found / max(found.sum(), 1e-12)
    positive = wanted > 0
    return float(
        np.sum(wanted[positive] * np.log(wanted[positive] / np.maximum(found[positive], 1e-12)))
    )


def _without_spike_at_zero(histogram: Histogram) -> np.ndarray:
    """Counts, float64, with the bin that holds 0 made as high as those beside it.

    Half of what a ReLU gives is 0. That is exact in every range, but one bin that outweighs all
    others would choose a range in which it has a level to itself, and clip the rest.
    """
    counts = histogram.counts.astype(np.float64)
    if histogram.low <= 0 <= histogram.high:
        here = int(
            _bin_counts(np.zeros(1, np.float32), histogram.low, high=histogram.high).argmax()
        )
        beside = [i for i in (here - 1, here + 1) if 0 <= i < NUM_BINS]
        counts[here] = counts[beside].mean()
    return counts

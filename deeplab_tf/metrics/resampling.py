"""Resampled lists of images that depend on each other: frames of a drive, tiles of a photo.

A bootstrap that draws images one by one takes neighbouring frames of a video for independent and
gives intervals that are too narrow. What is drawn here depends on what is known of the list:

* at least ten groups (drives, sequences, photos that tiles were cut from): whole groups, with
  replacement (cluster bootstrap; Davison & Hinkley 1997, Bootstrap Methods and their Application,
  section 3.8). Images that are groups of their own are drawn one by one.
* fewer groups, or none known: blocks of neighbouring images, within a group, which continue at its
  start (circular block bootstrap, Politis & Romano 1992). The length of a block is given, or
  measured from the autocorrelation: Politis & White 2004, Automatic Block-Length Selection for the
  Dependent Bootstrap, with the correction of Patton, Politis & White 2009.
"""

import dataclasses
import math

import numpy as np

RESAMPLES = 2000
FEWEST_UNITS = 10
"""Independent units that an interval needs; with fewer, its ends are not known."""
_SIGNIFICANT = 2.0
"""Politis & White's c: autocorrelations below c sqrt(log10(n) / n) count as zero."""


@dataclasses.dataclass(frozen=True)
class Dependence:
    """Which images of a list belong together.

    Attributes:
        groups: name of the group of each image, in list order; () if that is not known: the list
            is then taken for one sequence.
        block_length: images per block; 0 to measure it.
    """

    groups: tuple[str, ...] = ()
    block_length: int = 0

    def __post_init__(self) -> None:
        if self.block_length < 0:
            raise ValueError(f"block_length must not be negative, got {self.block_length}")


@dataclasses.dataclass(frozen=True)
class Resampling:
    """Resampled lists.

    Attributes:
        counts: float64 [RESAMPLES, images], how often each list contains each image.
        unit: what was drawn, in the plural: "images", "groups", "blocks of 9 images".
        units: how many of them the list has.
        independent: how many independent images or groups the list is worth: the units, and of
            blocks of measured length the images divided by how much their correlation inflates
            the variance of a mean.
        block_length: images per block; 0 if no blocks were drawn.
    """

    counts: np.ndarray
    unit: str
    units: int
    independent: int
    block_length: int = 0


def resample(
    dependence: Dependence, series: np.ndarray, *, relevant: np.ndarray, seed: int = 0
) -> Resampling:
    """Draws lists of images with replacement.

    Args:
        dependence: which images belong together.
        series: float64 [images], the influence of each image on the statistic, whose
            autocorrelation gives the length of the blocks.
        relevant: bool [images], images that the statistic depends on; units without any are
            drawn, but not counted.
        seed: of the random choice.

    Returns:
        The lists.

    Raises:
        ValueError: the numbers of groups and images differ.
    """
    images = len(series)
    groups = dependence.groups or ("",) * images
    if len(groups) != images:
        raise ValueError(f"expected a group for each of {images} images, got {len(groups)}")
    order = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    numbers = np.array([order[name] for name in groups])
    random = np.random.default_rng(seed)
    total = len(order)
    alone = total == images and images > 1
    if not dependence.block_length and (total >= FEWEST_UNITS or alone):
        drawn = random.multinomial(total, [1 / total] * total, RESAMPLES)[:, numbers]
        unit = "images" if alone else "groups"
        units = len(set(numbers[relevant]))
        return Resampling(drawn.astype(np.float64), unit, units=units, independent=units)
    members = [np.flatnonzero(numbers == number) for number in range(total)]
    length = dependence.block_length or block_length([series[which] for which in members])
    counts = np.zeros((RESAMPLES, images))
    units = 0
    for which in members:
        size = min(length, len(which))
        blocks = math.ceil(len(which) / size)
        starts = random.integers(len(which), size=(RESAMPLES, blocks, 1))
        chosen = ((starts + np.arange(size)) % len(which)).reshape(RESAMPLES, -1)[:, : len(which)]
        chosen += np.arange(RESAMPLES)[:, None] * len(which)
        often = np.bincount(chosen.ravel(), minlength=RESAMPLES * len(which))
        counts[:, which] = often.reshape(RESAMPLES, -1)
        units += len(set((np.flatnonzero(relevant[which]) // size).tolist()))
    unit = f"blocks of {length} images" if length > 1 else "images"
    independent = units
    if not dependence.block_length:
        inflation = variance_inflation([series[which] for which in members])
        independent = max(units, round(int(relevant.sum()) / inflation))
    return Resampling(counts, unit, units=units, independent=independent, block_length=length)


def block_length(parts: list[np.ndarray]) -> int:
    """Chooses the length of the blocks of a circular block bootstrap of the mean.

    Politis & White 2004, section 3.3 (flat-top lag window, constant 4/3).

    Args:
        parts: float64 [images of the part], series without a gap; correlations are taken within
            parts only.

    Returns:
        Images per block, rounded up; 1 if nothing varies.
    """
    images = sum(len(part) for part in parts)
    spectrum = _spectrum_at_zero(parts)
    if spectrum is None:
        return 1
    slope, density = spectrum
    most = math.ceil(min(3.0 * math.sqrt(images), images / 3.0))
    if density == 0:
        return most
    best = (1.5 * slope**2 / density**2 * images) ** (1 / 3)
    return int(min(max(math.ceil(best), 1), most))


def variance_inflation(parts: list[np.ndarray]) -> float:
    """Estimates how much larger the variance of the mean is than that of independent images.

    Args:
        parts: float64 [images of the part], series without a gap.

    Returns:
        One plus twice the sum of the autocorrelations (the flat-top window of `block_length`),
        at least 1.
    """
    spectrum = _spectrum_at_zero(parts)
    return 1.0 if spectrum is None else max(1.0, spectrum[1])


def _spectrum_at_zero(parts: list[np.ndarray]) -> tuple[float, float] | None:
    """Sums the windowed correlations over all lags, weighted by |lag| and not.

    Returns:
        Both sums; None for what does not vary.
    """
    images = sum(len(part) for part in parts)
    mean = sum(float(part.sum()) for part in parts) / max(images, 1)
    centred = [part - mean for part in parts]
    variance = sum(float(part @ part) for part in centred) / max(images, 1)
    if images < 4 or not variance > 0:
        return None

    def covariance(lag: int) -> float:
        longer = (part for part in centred if len(part) > lag)
        return sum(float(part[lag:] @ part[: len(part) - lag]) for part in longer) / images

    run = max(5, round(math.sqrt(math.log10(images))))
    longest = min(math.ceil(math.sqrt(images)) + run, max(len(part) for part in parts) - 1)
    correlations = np.array([covariance(lag) for lag in range(1, longest + 1)]) / variance
    bandwidth = min(2 * _last_lag(correlations, images=images, run=run), longest)
    lags = np.arange(1, bandwidth + 1)
    window = np.minimum(1.0, 2.0 * (1.0 - lags / bandwidth)) * correlations[:bandwidth]
    return 2.0 * float((window * lags).sum()), 1.0 + 2.0 * float(window.sum())


def _last_lag(correlations: np.ndarray, *, images: int, run: int) -> int:
    """Returns the lag before the first `run` insignificant ones, at least 1."""
    significant = np.abs(correlations) >= _SIGNIFICANT * math.sqrt(math.log10(images) / images)
    for first in range(len(significant) - run + 1):
        if not significant[first : first + run].any():
            return max(first, 1)
    found = np.flatnonzero(significant)
    return int(found[-1]) + 1 if len(found) else 1

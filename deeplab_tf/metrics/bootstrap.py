"""Confidence interval of a difference in mIoU: a paired bootstrap over independent units.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval), with
the percentiles of Hesterberg 2015, What Teachers Should Know About the Bootstrap, section 3.3:
plain ones are too narrow for few units, by as much as the t distribution is wider than the normal.
Both files are scored on the same resampled list of images, so images that are hard for both cancel
out.
What is drawn (images, groups of them, blocks of neighbours) is decided in `resampling`, and every
interval says which it is.

The difference is computed class by class, over the classes with a union in both files. Without this
rule, a class that occurs in no image would count as 0 in the mean of a file that predicts it in one
pixel, and not at all in the mean of a file that does not predict it: a single pixel would change
the difference by points of mIoU.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from deeplab_tf.metrics.resampling import (
    FEWEST_UNITS,
    RESAMPLES,
    Dependence,
    Resampling,
    resample,
)

LEVEL = 95.0
"""Of the intervals, percent."""


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference and its 95 % confidence interval, as fractions.

    Attributes:
        difference: second minus first, on the original list.
        low: its lower end; NaN if there are too few units.
        high: its upper end; NaN if there are too few units.
        unit: what was resampled, in the plural: "images", "groups", "blocks of 9 images".
        units: how many of them bear on the difference.
        independent: how many independent images or groups these are worth; below ten there are
            no ends.
        compared: differences that the interval holds for at once; above 1 where it was widened
            because the difference is one of so many, such as the largest.
    """

    difference: float
    low: float
    high: float
    unit: str
    units: int
    independent: int
    compared: int = 1

    @property
    def too_few(self) -> bool:
        """Whether there are too few independent units for an interval."""
        return self.independent < FEWEST_UNITS

    @property
    def is_noise(self) -> bool:
        """Whether the interval contains zero or is unknown (NaN)."""
        return not (self.low > 0 or self.high < 0)

    @property
    def basis(self) -> str:
        """What the interval rests on, as text: "12 blocks of 9 images, worth 30"."""
        worth = f", worth {self.independent}" if self.independent != self.units else ""
        return f"{self.units} {self.unit}{worth}"

    def to_json(self) -> dict:
        """Returns the fields as plain values; None for what is not known."""
        values = dataclasses.asdict(self) | {"too_few": self.too_few}
        return {
            key: None if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in values.items()
        }


def common_classes(
    first: np.ndarray, second: np.ndarray, *, classes: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Finds the classes with a union in both files, over which differences are computed.

    Args:
        first: confusion matrices, [images, num_classes, num_classes + 1].
        second: those of the other file, of the same shape.
        classes: classes to choose from; empty for all.

    Returns:
        The indices of the classes.
    """
    counted = (_overlap(first)[1].sum(0) > 0) & (_overlap(second)[1].sum(0) > 0)
    return tuple(index for index in classes or range(len(counted)) if counted[index])


def miou_difference(
    first: np.ndarray,
    second: np.ndarray,
    *,
    dependence: Dependence,
    classes: tuple[int, ...] = (),
    seed: int = 0,
    fewest_units: int = FEWEST_UNITS,
) -> Interval:
    """Computes the mIoU of the second file minus that of the first, over their common classes.

    Args:
        first: confusion matrices, [images, num_classes, num_classes + 1].
        second: those of the other file, of the same images in the same order.
        dependence: which images belong together.
        classes: classes of the mean; empty for all. Those without a union in one of the files are
            left out of both means (`common_classes`), on the original list and on every
            resampled one.
        seed: of the resampling.
        fewest_units: independent units without which the ends are NaN.

    Returns:
        The difference and its interval; NaN if the files have no class in common, NaN ends if the
        list is worth too few independent images.

    Raises:
        ValueError: different shapes, or no images.
    """
    _check(first, second)
    resampling = _resampling(first, second, classes=classes, dependence=dependence, seed=seed)
    whole, resampled = _changes(first, second, resampling=resampling, classes=classes)
    known = resampled[np.isfinite(resampled)]
    low = high = np.nan
    if len(known) and resampling.independent >= fewest_units:
        tail = 100 * float(stats.norm.cdf(-_half_width(resampling.units)))
        low, high = np.percentile(known, [tail, 100 - tail])
    return Interval(
        whole,
        float(low),
        high=float(high),
        unit=resampling.unit,
        units=resampling.units,
        independent=resampling.independent,
    )


def simultaneous_differences(
    first: np.ndarray,
    others: Sequence[np.ndarray],
    *,
    dependence: Dependence,
    classes: tuple[int, ...] = (),
    seed: int = 0,
) -> list[Interval]:
    """Computes differences from one file whose intervals all hold at once, also for the largest.

    The largest of many differences is too large on average, and its own interval does not know. All
    intervals are widened by one factor, so that on 95 % of the resampled lists all of them hold
    (Romano & Wolf 2005, Exact and Approximate Stepdown Methods: the single-step maximum of the
    studentized differences).

    Args:
        first: confusion matrices, [images, num_classes, num_classes + 1].
        others: those of the other files.
        dependence: which images belong together; of blocks, the longest of all differences is
            used.
        classes: classes of the mean; empty for all.
        seed: of the resampling, the same lists for all.

    Returns:
        One interval per file.

    Raises:
        ValueError: different shapes, or no images.
    """
    for other in others:
        _check(first, other)
    if not others:
        return []
    resamplings = [
        _resampling(first, other, classes=classes, dependence=dependence, seed=seed)
        for other in others
    ]
    if longest := max(resampling.block_length for resampling in resamplings):
        dependence = dataclasses.replace(dependence, block_length=longest)
        resamplings = [
            _resampling(first, other, classes=classes, dependence=dependence, seed=seed)
            for other in others
        ]
    changes = [
        _changes(first, other, resampling=resampling, classes=classes)
        for other, resampling in zip(others, resamplings, strict=True)
    ]
    farthest = np.zeros(RESAMPLES)
    spreads = []
    for whole, resampled in changes:
        known = np.isfinite(resampled)
        spreads.append(float(np.std(resampled[known])) if known.any() else math.nan)
        if spreads[-1] > 0:
            away = np.where(known, np.abs(resampled - whole) / spreads[-1], 0.0)
            farthest = np.maximum(farthest, away)
    factor = float(np.percentile(farthest, LEVEL))
    intervals = []
    for (whole, _), spread, resampling in zip(changes, spreads, resamplings, strict=True):
        wider = _half_width(resampling.units) / float(stats.norm.ppf((100 + LEVEL) / 200))
        half = factor * wider * spread if resampling.independent >= FEWEST_UNITS else math.nan
        intervals.append(
            Interval(
                whole,
                whole - half,
                high=whole + half,
                unit=resampling.unit,
                units=resampling.units,
                independent=resampling.independent,
                compared=len(others),
            )
        )
    return intervals


def _half_width(units: int) -> float:
    """Half of an interval's width in bootstrap standard errors: 1.96 for many units."""
    if units < 2:
        return math.inf
    return math.sqrt(units / (units - 1)) * float(stats.t.ppf((100 + LEVEL) / 200, units - 1))


def _check(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            "expected confusion matrices of the same images, at least one; got shapes "
            f"{first.shape} and {second.shape}"
        )


def _resampling(
    first: np.ndarray,
    second: np.ndarray,
    *,
    classes: tuple[int, ...],
    dependence: Dependence,
    seed: int,
) -> Resampling:
    """Draws lists for a difference; units without a pixel of its classes do not count."""
    common = list(common_classes(first, second, classes=classes))
    union = _overlap(first)[1][:, common] + _overlap(second)[1][:, common]
    return resample(
        dependence,
        _influence(second, common) - _influence(first, common),
        relevant=union.any(axis=1),
        seed=seed,
    )


def _influence(matrices: np.ndarray, classes: list[int]) -> np.ndarray:
    """Computes how much each image moves the mIoU, to first order, float64 [images].

    d(hits / union) = (d hits - IoU d union) / union, summed over the classes.
    """
    hits, union = (values[:, classes] for values in _overlap(matrices))
    total = union.sum(0)
    iou = hits.sum(0) / total
    return ((hits - iou * union) / total).sum(1) / max(len(classes), 1)


def _changes(
    first: np.ndarray, second: np.ndarray, *, resampling: Resampling, classes: tuple[int, ...]
) -> tuple[float, np.ndarray]:
    """Computes the change of mIoU on the original list and on each resampled one."""
    (whole,) = _mean_changes(first, second, counts=np.ones((1, len(first))), classes=classes)
    return float(whole), _mean_changes(first, second, counts=resampling.counts, classes=classes)


def _mean_changes(
    first: np.ndarray, second: np.ndarray, *, counts: np.ndarray, classes: tuple[int, ...]
) -> np.ndarray:
    """Computes the mean change of IoU on each resampled list.

    Args:
        first: confusion matrices, [images, num_classes, num_classes + 1].
        second: those of the other file.
        counts: [resamples, images], how often each list contains each image.
        classes: classes of the mean; empty for all.

    Returns:
        float64 [resamples]; NaN if no class has a union in both files.
    """
    change = _ious(second, counts) - _ious(first, counts)
    if classes:
        change = change[:, list(classes)]
    known = np.isfinite(change)
    total = np.where(known, change, 0.0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _ious(matrices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Computes IoU per class on each resampled list.

    Returns:
        float64 [resamples, num_classes]; NaN where the union is empty.
    """
    hits, union = (counts @ values for values in _overlap(matrices))
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def _overlap(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns intersection and union of each class on each image, float64 [images, classes]."""
    exact = matrices.astype(np.float64)
    hits = np.diagonal(exact, axis1=1, axis2=2)
    return hits, exact.sum(2) + exact.sum(1)[:, : hits.shape[1]] - hits

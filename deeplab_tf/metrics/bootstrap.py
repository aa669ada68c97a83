"""How much of a difference in mIoU is luck of the list: a paired bootstrap over images.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval). Both
files are scored on the same resampled list, so what is hard for both cancels out.

The difference is taken class by class, over the classes that both files count. A class that no
image holds counts as 0 in the mean of a file that predicts it in one pixel, and not at all in the
mean of one that does not: the difference of such means is points of mIoU for a single pixel.
"""

import dataclasses

import numpy as np

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference and its 95 % interval; fractions.

    Attributes:
        difference: second minus first, on the list itself.
        low, high: 2.5th and 97.5th percentile over resampled lists.
    """

    difference: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether zero lies inside; an interval that is not known is noise, too."""
        return not (self.low > 0 or self.high < 0)


def common_classes(
    first: np.ndarray, second: np.ndarray, *, classes: tuple[int, ...] = ()
) -> tuple[int, ...]:
    """Classes with a union in both files: those that a difference is taken over.

    Args:
        first, second: [images, num_classes, num_classes + 1].
        classes: to choose from; empty for all.
    """
    counted = (_overlap(first)[1].sum(0) > 0) & (_overlap(second)[1].sum(0) > 0)
    return tuple(index for index in classes or range(len(counted)) if counted[index])


def miou_difference(
    first: np.ndarray, second: np.ndarray, *, classes: tuple[int, ...] = (), seed: int = 0
) -> Interval:
    """MIoU of the second file less that of the first, over the classes that both count.

    Args:
        first, second: [images, num_classes, num_classes + 1], confusion matrices of the same
            images in the same order.
        classes: that the mean is taken over; empty for all. Of these, those without a union in
            one of the files are left out of both means (`common_classes`), on the list itself
            and on every resampled one.
        seed: of the resampling.

    Returns:
        NaN where the files have no class in common.

    Raises:
        ValueError: other images, or none.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"both files must be scored on the same images; got {first.shape} and {second.shape}"
        )
    images = len(first)
    weights = np.random.default_rng(seed).multinomial(images, [1 / images] * images, RESAMPLES)
    (whole,), resampled = (
        _mean_changes(first, second, counts=counts, classes=classes)
        for counts in (np.ones((1, images)), weights)
    )
    known = resampled[np.isfinite(resampled)]
    low, high = np.percentile(known, [2.5, 97.5]) if len(known) else (np.nan, np.nan)
    return Interval(float(whole), float(low), high=float(high))


def _mean_changes(first, second, *, counts: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """Mean change of IoU on each resampled list, float64 [resamples]; NaN without a class."""
    change = _ious(second, counts) - _ious(first, counts)
    if classes:
        change = change[:, list(classes)]
    known = np.isfinite(change)
    total = np.where(known, change, 0.0).sum(1)
    return np.divide(total, known.sum(1), out=np.full(len(total), np.nan), where=known.any(1))


def _ious(matrices: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """IoU of each class on each resampled list, float64 [resamples, num_classes]; NaN without a
    union.
    """
    hits, union = (counts @ values for values in _overlap(matrices))
    return np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)


def _overlap(matrices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intersection and union of each class on each image, float64 [images, num_classes]."""
    exact = matrices.astype(np.float64)
    hits = np.diagonal(exact, axis1=1, axis2=2)
    return hits, exact.sum(2) + exact.sum(1)[:, : hits.shape[1]] - hits

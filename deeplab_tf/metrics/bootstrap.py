"""Confidence interval of a difference in mIoU: a paired bootstrap over images.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval). Both
files are scored on the same resampled list of images, so images that are hard for both cancel out.

The difference is computed class by class, over the classes with a union in both files. Without this
rule, a class that occurs in no image would count as 0 in the mean of a file that predicts it in one
pixel, and not at all in the mean of a file that does not predict it: a single pixel would change
the difference by points of mIoU.
"""

import dataclasses

import numpy as np

RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A difference and its 95 % confidence interval, as fractions.

    Attributes:
        difference: second minus first, on the original list.
        low: 2.5th percentile over resampled lists.
        high: 97.5th percentile over resampled lists.
    """

    difference: float
    low: float
    high: float

    @property
    def is_noise(self) -> bool:
        """Whether the interval contains zero or is unknown (NaN)."""
        return not (self.low > 0 or self.high < 0)


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
    first: np.ndarray, second: np.ndarray, *, classes: tuple[int, ...] = (), seed: int = 0
) -> Interval:
    """Computes the mIoU of the second file minus that of the first, over their common classes.

    Args:
        first: confusion matrices, [images, num_classes, num_classes + 1].
        second: those of the other file, of the same images in the same order.
        classes: classes of the mean; empty for all. Those without a union in one of the files are
            left out of both means (`common_classes`), on the original list and on every
            resampled one.
        seed: of the resampling.

    Returns:
        The difference and its interval; NaN if the files have no class in common.

    Raises:
        ValueError: different shapes, or no images.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            "expected confusion matrices of the same images, at least one; got shapes "
            f"{first.shape} and {second.shape}"
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

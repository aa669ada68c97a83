"""How much of a difference in mIoU is luck of the list: a paired bootstrap over images.

Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3 (percentile interval). Both
files are scored on the same resampled list, so what is hard for both cancels out.
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
        """Whether zero lies inside."""
        return self.low <= 0 <= self.high


def miou_difference(
    first: np.ndarray, second: np.ndarray, classes: tuple[int, ...] = (), seed: int = 0
) -> Interval:
    """mIoU of the second file less that of the first.

    Args:
        first, second: [images, num_classes, num_classes + 1], confusion matrices of the same
            images in the same order.
        classes: that the mean is taken over; empty for all.
        seed: of the resampling.

    Raises:
        ValueError: other images, or none.
    """
    if first.shape != second.shape or len(first) == 0:
        raise ValueError(
            f"both files must be scored on the same images; got {first.shape} and {second.shape}"
        )
    images = len(first)
    weights = np.random.default_rng(seed).multinomial(images, [1 / images] * images, RESAMPLES)
    everything = np.ones((1, images))
    (whole,), resampled = (
        _mean_ious(second, counts, classes) - _mean_ious(first, counts, classes)
        for counts in (everything, weights)
    )
    low, high = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(float(whole), float(low), float(high))


def _mean_ious(matrices: np.ndarray, counts: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """mIoU of each resampled list, float64 [resamples]; classes without a union do not count."""
    flat = matrices.reshape(len(matrices), -1).astype(np.float64)
    totals = (counts @ flat).reshape(len(counts), *matrices.shape[1:])
    num_classes = totals.shape[1]
    truth, predicted = totals.sum(2), totals.sum(1)[:, :num_classes]
    hits = np.diagonal(totals, axis1=1, axis2=2)
    union = truth + predicted - hits
    iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
    return np.nanmean(iou[:, list(classes)] if classes else iou, axis=1)

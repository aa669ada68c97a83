"""Intersection over union of files on one list: which classes count, shares, differences."""

import math

import numpy as np

from deeplab_tf.metrics.bootstrap import Interval, miou_difference


def overlap(image_matrices: np.ndarray) -> np.ndarray:
    """Intersection and union of each class on each photo.

    Args:
        image_matrices: [photos, num_classes, num_classes + 1].

    Returns:
        int64 [photos, num_classes, 2].
    """
    matrices = image_matrices.astype(np.int64)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(2) + matrices.sum(1)[:, : hits.shape[1]] - hits
    return np.stack([hits, union], axis=-1)


def shares(counts: np.ndarray) -> np.ndarray:
    """Intersection over union of counts [..., 2], float64 [...]; NaN where the union is empty."""
    both, either = counts[..., 0].astype(np.float64), counts[..., 1]
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


def change_of(
    first: np.ndarray, second: np.ndarray, *, classes: tuple[int, ...] = ()
) -> Interval | None:
    """Change of the mean share over the classes that both count, with its interval over photos.

    Args:
        first, second: int64 [photos, classes, 2], of the same photos.
        classes: that the mean is taken over; empty for all.

    Returns:
        None without a class in common.
    """
    interval = miou_difference(as_matrices(first), as_matrices(second), classes=classes)
    return interval if math.isfinite(interval.difference) else None


def as_matrices(counts: np.ndarray) -> np.ndarray:
    """Confusion matrices with the same intersections and unions: all misses in the last column."""
    photos, classes, _ = counts.shape
    matrices = np.zeros((photos, classes, classes + 1), np.int64)
    diagonal = np.arange(classes)
    matrices[:, diagonal, diagonal] = counts[..., 0]
    matrices[:, :, classes] = counts[..., 1] - counts[..., 0]
    return matrices

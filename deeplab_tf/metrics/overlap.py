"""Intersection over union of files on one list of images: counts, fractions, differences."""

import math

import numpy as np

from deeplab_tf.metrics.bootstrap import Interval, miou_difference
from deeplab_tf.metrics.resampling import Dependence


def overlap(image_matrices: np.ndarray) -> np.ndarray:
    """Computes intersection and union of each class on each image.

    Args:
        image_matrices: confusion matrices, [images, num_classes, num_classes + 1].

    Returns:
        int64 [images, num_classes, 2].
    """
    matrices = image_matrices.astype(np.int64)
    hits = np.diagonal(matrices, axis1=1, axis2=2)
    union = matrices.sum(2) + matrices.sum(1)[:, : hits.shape[1]] - hits
    return np.stack([hits, union], axis=-1)


def iou_from_counts(counts: np.ndarray) -> np.ndarray:
    """Divides intersections by unions.

    Args:
        counts: [..., 2], intersection and union.

    Returns:
        float64 [...]; NaN where the union is empty.
    """
    intersection, union = counts[..., 0].astype(np.float64), counts[..., 1]
    return np.divide(intersection, union, out=np.full(intersection.shape, np.nan), where=union > 0)


def mean_iou_change(
    first: np.ndarray,
    second: np.ndarray,
    *,
    dependence: Dependence,
    classes: tuple[int, ...] = (),
) -> Interval | None:
    """Computes the change of mean IoU over the common classes, with its confidence interval.

    Args:
        first: int64 [images, classes, 2], intersections and unions (`overlap`).
        second: those of the other file, of the same images.
        dependence: which images belong together.
        classes: classes of the mean; empty for all.

    Returns:
        The change, second minus first; None if the files have no class in common.
    """
    interval = miou_difference(
        as_matrices(first), as_matrices(second), dependence=dependence, classes=classes
    )
    return interval if math.isfinite(interval.difference) else None


def as_matrices(counts: np.ndarray) -> np.ndarray:
    """Builds confusion matrices with given intersections and unions.

    Args:
        counts: int64 [images, classes, 2].

    Returns:
        int64 [images, classes, classes + 1], with all misses in the last column.
    """
    images, classes, _ = counts.shape
    matrices = np.zeros((images, classes, classes + 1), np.int64)
    diagonal = np.arange(classes)
    matrices[:, diagonal, diagonal] = counts[..., 0]
    matrices[:, :, classes] = counts[..., 1] - counts[..., 0]
    return matrices

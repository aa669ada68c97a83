"""Boundary IoU: accuracy of object contours, to which IoU is insensitive on large objects.

Cheng et al. 2021, Boundary IoU: Improving Object-Centric Image Segmentation Evaluation,
arXiv:2103.16562. For the ground truth G and the prediction P of one class

    boundary IoU = |(G_d and G) and (P_d and P)| / |(G_d and G) or (P_d and P)|

where G_d and P_d are the pixels within d of the contour of G and of P, so that `G_d and G` is a
band along the inner side. d is 2 % of the image diagonal, at least one pixel. The distance is the
larger of the differences in rows and in columns (the authors' program erodes d times by 3 x 3). As
in that program, the border of the image is a contour.

Ignored pixels of the ground truth are in no mask of either side, make no contour and are not
counted: the width of an ignored seam between two objects does not change the score. Intersections
and unions are summed over all images before the division, as for mIoU.
"""

import math

import numpy as np
from scipy import ndimage

DILATION_RATIO = 0.02
"""Width of the band as a fraction of the image diagonal; the paper's choice."""
_NO_CLASS = -1


def band_width(height: int, width: int) -> int:
    """Computes the width of the band, 2 % of the image diagonal.

    Args:
        height: of the image, pixels.
        width: of the image, pixels.

    Returns:
        The width in pixels, at least 1.
    """
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def inner_band(classes: np.ndarray, distance: int) -> np.ndarray:
    """Finds the pixels within `distance` of another class or of the border, for all classes.

    `distance` erosions remove a pixel from the mask of its class exactly if the square window
    around it contains another class or extends beyond the image.

    Args:
        classes: int16 [height, width]; -1 for pixels that are in no mask and make no contour.
        distance: from the centre of the window to its edge, in pixels.

    Returns:
        bool [height, width]; false where `classes` is -1.
    """
    size = 2 * distance + 1
    most = np.iinfo(np.int16).max
    highest = ndimage.maximum_filter(classes, size, mode="nearest")
    lowest = ndimage.minimum_filter(
        np.where(classes == _NO_CLASS, most, classes), size, mode="nearest"
    )
    band = highest != lowest
    band[:distance] = band[-distance:] = True
    band[:, :distance] = band[:, -distance:] = True
    return band & (classes != _NO_CLASS)


def boundary_counts(
    label: np.ndarray, prediction: np.ndarray, *, num_classes: int, distance: int
) -> np.ndarray:
    """Counts intersection and union of the boundary bands of one image.

    Args:
        label: uint8 [height, width]; values from num_classes up are ignored.
        prediction: uint8 [height, width]; values from num_classes up are one extra class, which
            makes contours but never matches the label.
        num_classes: number of classes.
        distance: width of the band in pixels.

    Returns:
        int64 [num_classes, 2]; intersection and union of each class.
    """
    ignored = label >= num_classes
    truth = np.where(ignored, _NO_CLASS, label.astype(np.int16))
    predicted = np.minimum(prediction, num_classes).astype(np.int16)
    predicted[ignored] = _NO_CLASS
    true_band, predicted_band = inner_band(truth, distance), inner_band(predicted, distance)

    def count(where: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.bincount(classes[where], minlength=num_classes + 1)[:num_classes]

    intersection = count(true_band & predicted_band & (truth == predicted), truth)
    union = count(true_band, truth) + count(predicted_band, predicted) - intersection
    return np.stack([intersection, union], axis=-1).astype(np.int64)

"""Boundary IoU: how well edges are drawn, which plain IoU hardly sees on large objects.

Cheng et al. 2021, Boundary IoU: Improving Object-Centric Image Segmentation Evaluation,
arXiv:2103.16562. For the truth G and the prediction P of one class

    boundary IoU = |(G_d and G) and (P_d and P)| / |(G_d and G) or (P_d and P)|

where G_d and P_d are the pixels within d of the contour of G and of P, so that `G_d and G` is a
band along the inner side. d is 2 % of the photo's diagonal, at least one pixel, and the distance is
the larger of the steps in rows and in columns (the authors' program erodes d times by 3 x 3). The
photo's border is a contour, as it is there.

Pixels that the truth ignores are in no mask of either side, make no contour and are not counted:
the width of an ignored seam between two objects costs no file anything. Intersections and unions
are summed over all photos before they are divided, as for mIoU.
"""

import math

import numpy as np
from scipy import ndimage

DILATION_RATIO = 0.02
"""Width of the band as a share of the photo's diagonal; the paper's choice."""
_NOWHERE = -1


def band_width(height: int, width: int) -> int:
    """Pixels that a band is wide: 2 % of the diagonal, at least 1."""
    return max(1, round(DILATION_RATIO * math.hypot(height, width)))


def inner_band(classes: np.ndarray, distance: int) -> np.ndarray:
    """Pixels within `distance` of another class or of the border, for all classes at once.

    A pixel leaves its class's mask under `distance` erosions exactly if the square window
    around it holds another class or reaches out of the photo.

    Args:
        classes: int16 [height, width]; -1 for pixels that are in no mask and make no contour.
        distance: of the window's edge from its centre, in pixels.

    Returns:
        bool [height, width]; false where `classes` is -1.
    """
    size = 2 * distance + 1
    most = np.iinfo(np.int16).max
    highest = ndimage.maximum_filter(classes, size, mode="nearest")
    lowest = ndimage.minimum_filter(
        np.where(classes == _NOWHERE, most, classes), size, mode="nearest"
    )
    band = highest != lowest
    band[:distance] = band[-distance:] = True
    band[:, :distance] = band[:, -distance:] = True
    return band & (classes != _NOWHERE)


def boundary_counts(
    label: np.ndarray, prediction: np.ndarray, *, num_classes: int, distance: int
) -> np.ndarray:
    """Pixels of both bands together, one photo.

    Args:
        label: uint8 [height, width]; values from num_classes up are ignored.
        prediction: uint8 [height, width]; values from num_classes up are a class of no name:
            they bound their neighbours and hit nothing.
        distance: width of the band in pixels.

    Returns:
        int64 [num_classes, 2]; intersection and union of each class.
    """
    ignored = label >= num_classes
    truth = np.where(ignored, _NOWHERE, label.astype(np.int16))
    found = np.minimum(prediction, num_classes).astype(np.int16)
    found[ignored] = _NOWHERE
    of_truth, of_found = inner_band(truth, distance), inner_band(found, distance)

    def count(where: np.ndarray, classes: np.ndarray) -> np.ndarray:
        return np.bincount(classes[where], minlength=num_classes + 1)[:num_classes]

    both = count(of_truth & of_found & (truth == found), truth)
    either = count(of_truth, truth) + count(of_found, found) - both
    return np.stack([both, either], axis=-1).astype(np.int64)

"""Confusion matrices and the scores that follow from them.

mIoU has three conventions (classes with a union; classes in the truth; absent = 0), which gave
0.583, 0.875 and 0.4375 on the same data. Here a class counts when its union is not empty, and
every score says how many classes counted.
"""

import numpy as np


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Counts pixels by true and predicted class.

    Args:
        label: uint8 [height, width]; values from num_classes up (255) are not counted.
        prediction: integer [height, width]. Values outside the classes count as an extra,
            last column, so that they cost the true class its pixels.

    Returns:
        int64 [num_classes, num_classes + 1]; row = truth, column = prediction.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in size")
    columns = num_classes + 1
    # 16 bits hold the index of any matrix up to 254 x 255, and bincount of one wide column of
    # ignored pixels is cheaper than a boolean selection.
    row = np.minimum(label, num_classes).astype(np.uint16)
    if prediction.dtype.kind == "i":
        # int16 at least: int8 does not hold the extra column of 128 and more classes.
        prediction = np.where(prediction < 0, np.int16(num_classes), prediction)
    column = np.minimum(prediction, num_classes).astype(np.uint16)
    counts = np.bincount((row * columns + column).ravel(), minlength=columns * columns)
    return counts.reshape(columns, columns)[:num_classes].astype(np.int64)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union, a fraction.

    Args:
        matrix: int64 [num_classes, num_classes + 1].

    Returns:
        float64 [num_classes]; NaN where the union is empty.
    """
    truth, predicted, hits = _margins(matrix)
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray, classes: tuple[int, ...] = ()) -> tuple[float, int]:
    """Mean over classes with a non-empty union, and how many those are (NaN if none).

    Args:
        matrix: int64 [num_classes, num_classes + 1]; every pixel of it counts in the unions.
        classes: that the mean is taken over; empty for all.
    """
    iou = iou_per_class(matrix)
    if classes:
        iou = iou[list(classes)]
    counted = int(np.isfinite(iou).sum())
    return (float(np.nanmean(iou)) if counted else float("nan")), counted


def mean_true_iou(matrix: np.ndarray) -> float:
    """Mean over the classes that the truth holds; NaN without any.

    To choose between predictions of the same labels: the classes are the same for all of them,
    while `mean_iou` also counts, as 0, a class that one prediction holds a single pixel of.
    """
    occurs = matrix.sum(1) > 0
    return float(iou_per_class(matrix)[occurs].mean()) if occurs.any() else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Share of labelled pixels with the right class."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Mean over the classes that occur in the truth of the share found."""
    truth, _, hits = _margins(matrix)
    occurs = truth > 0
    return float(np.mean(hits[occurs] / truth[occurs])) if occurs.any() else float("nan")


def _margins(matrix: np.ndarray):
    num_classes = len(matrix)
    truth = matrix.sum(1).astype(np.float64)
    predicted = matrix.sum(0)[:num_classes].astype(np.float64)
    return truth, predicted, np.diagonal(matrix).astype(np.float64)

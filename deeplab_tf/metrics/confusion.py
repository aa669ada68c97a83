"""Confusion matrices and the scores computed from them.

mIoU has three conventions (mean over classes with a union; over classes in the ground truth; absent
classes count as 0), which gave 0.583, 0.875 and 0.4375 on the same data. Here a class counts if its
union is not empty, and the number of counted classes is returned with the score.
"""

from collections.abc import Mapping, Sequence

import numpy as np

_BLOCK_PIXELS = 1 << 22
"""Pixels that are counted at once: bincount takes 8 bytes for each."""


def confusion_matrix(label: np.ndarray, prediction: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Counts pixels by true and predicted class.

    Args:
        label: uint8 [height, width]; values from num_classes up (255) are not counted.
        prediction: integer [height, width]. Values outside the classes are counted in an extra
            last column, as misses of the true class.
        num_classes: number of classes.

    Returns:
        int64 [num_classes, num_classes + 1]; row = truth, column = prediction.

    Raises:
        ValueError: the sizes differ.
    """
    if label.shape != prediction.shape:
        raise ValueError(f"label {label.shape} and prediction {prediction.shape} differ in size")
    columns = num_classes + 1
    counts = np.zeros(columns * columns, np.int64)
    rows = max(1, _BLOCK_PIXELS // max(1, label[:1].size))
    for start in range(0, len(label), rows):
        block = slice(start, start + rows)
        counts += _count(label[block], prediction[block], num_classes=num_classes)
    return counts.reshape(columns, columns)[:num_classes]


def _count(label: np.ndarray, prediction: np.ndarray, *, num_classes: int) -> np.ndarray:
    columns = num_classes + 1
    # 16 bits hold the index of any matrix up to 254 x 255, and bincount of one wide column of
    # ignored pixels is cheaper than a boolean selection.
    row = np.minimum(label, num_classes).astype(np.uint16)
    if prediction.dtype.kind == "i":
        # int16 at least: int8 does not hold the extra column of 128 and more classes.
        prediction = np.where(prediction < 0, np.int16(num_classes), prediction)
    column = np.minimum(prediction, num_classes).astype(np.uint16)
    return np.bincount((row * columns + column).ravel(), minlength=columns * columns)


def iou_per_class(matrix: np.ndarray) -> np.ndarray:
    """Computes the intersection over union of each class, as a fraction.

    Args:
        matrix: int64 [num_classes, num_classes + 1].

    Returns:
        float64 [num_classes]; NaN where the union is empty.
    """
    truth, predicted, hits = _margins(matrix)
    union = truth + predicted - hits
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(matrix: np.ndarray, classes: tuple[int, ...] = ()) -> tuple[float, int]:
    """Computes the mean IoU over classes with a non-empty union.

    Args:
        matrix: int64 [num_classes, num_classes + 1]; all of its pixels count in the unions.
        classes: classes of the mean; empty for all.

    Returns:
        The mean, NaN if no class counts, and the number of counted classes.
    """
    iou = iou_per_class(matrix)
    if classes:
        iou = iou[list(classes)]
    counted = int(np.isfinite(iou).sum())
    return (float(np.nanmean(iou)) if counted else float("nan")), counted


def counted_classes(matrix: np.ndarray, classes: tuple[int, ...] = ()) -> tuple[int, ...]:
    """Returns the classes that `mean_iou` is the mean of.

    Args:
        matrix: int64 [num_classes, num_classes + 1].
        classes: classes to choose from; empty for all.
    """
    iou = iou_per_class(matrix)
    return tuple(index for index in classes or range(len(iou)) if np.isfinite(iou[index]))


def notes_on_means(
    matrices: Mapping[str, np.ndarray], names: Sequence[str], *, classes: tuple[int, ...] = ()
) -> list[str]:
    """Says where a mean IoU is no mean, or not comparable with the one beside it.

    Args:
        matrices: confusion matrices of what stands in one table, by name.
        names: of the classes.
        classes: classes of the means; empty for all.

    Returns:
        One sentence each: means of a single class, and means over different classes, with the
        means over the classes that all count.
    """
    counted = {row: counted_classes(matrix, classes) for row, matrix in matrices.items()}
    notes = [
        f"mIoU of {row} is the IoU of one class, {names[found[0]]}"
        for row, found in counted.items()
        if len(found) == 1
    ]
    if len(set(counted.values())) < 2:
        return notes
    common = tuple(
        index for index in range(len(names)) if all(index in found for found in counted.values())
    )
    parts = []
    for found in dict.fromkeys(counted.values()):
        rows = ", ".join(row for row, own in counted.items() if own == found)
        others = [names[index] for index in found if index not in common]
        also = f" (also {', '.join(others)})" if others else ""
        parts.append(f"{rows} over {len(found)} classes{also}")
    over = (
        ", ".join(f"{row} {100 * mean_iou(m, common)[0]:.2f}" for row, m in matrices.items())
        if common
        else "none"
    )
    return [
        *notes,
        f"mIoU is not over the same classes: {'; '.join(parts)}. Over the {len(common)} that all "
        f"count, %: {over}",
    ]


def mean_true_iou(matrix: np.ndarray) -> float:
    """Computes the mean IoU over the classes of the ground truth; NaN if there are none.

    Use it to rank predictions of the same labels: the classes are then the same for all, while
    `mean_iou` also counts, as 0, an absent class that one prediction contains in a single pixel.

    Args:
        matrix: int64 [num_classes, num_classes + 1].

    Returns:
        The mean, as a fraction.
    """
    occurs = matrix.sum(1) > 0
    return float(iou_per_class(matrix)[occurs].mean()) if occurs.any() else float("nan")


def pixel_accuracy(matrix: np.ndarray) -> float:
    """Computes the fraction of labelled pixels with the right class; NaN without pixels."""
    total = matrix.sum()
    return float(np.trace(matrix) / total) if total else float("nan")


def mean_class_accuracy(matrix: np.ndarray) -> float:
    """Computes the mean recall over the classes of the ground truth; NaN if there are none."""
    truth, _, hits = _margins(matrix)
    occurs = truth > 0
    return float(np.mean(hits[occurs] / truth[occurs])) if occurs.any() else float("nan")


def _margins(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns true, predicted and correctly predicted pixels of each class, float64."""
    num_classes = len(matrix)
    truth = matrix.sum(1).astype(np.float64)
    predicted = matrix.sum(0)[:num_classes].astype(np.float64)
    return truth, predicted, np.diagonal(matrix).astype(np.float64)

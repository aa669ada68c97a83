"""Checks the masks themselves: constant masks, missing classes, another order of classes."""

import numpy as np

from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding, problem, some, warning
from tflite_tools.diagnosis.observation import Observations

_COMMON = 0.005
"""Fraction of the labelled pixels from which on a class is not missed by chance."""
_SEVERAL = 3
"""Photos that must contain a class before its absence from all masks is not chance."""
_OUTSIDE = 0.001
_MOSTLY = 0.5


def constant_mask(case: Case, seen: Observations) -> list[Finding]:
    """Finds masks of a single class."""
    if not seen.images or not seen.constant_images:
        return []
    predicted = seen.matrix.sum(0)  # type: ignore[union-attr]
    names = (*case.dataset.label_set.names, "a class outside the label set")  # type: ignore[union-attr]
    evidence = (
        f"{seen.constant_images} of {seen.images} masks have a single class, mostly "
        f"{names[int(predicted.argmax())]!r}"
    )
    if seen.constant_images < seen.images:
        return [warning("constant_mask", evidence, "Look at these photos and their labels.")]
    return [
        problem(
            "constant_mask",
            evidence,
            "Look at the other findings first: photos normalized twice or not at all, calibration "
            "on wrong images, an argmax of rounded logits. If the float file is constant too, "
            "train longer.",
        )
    ]


def never_predicted(case: Case, seen: Observations) -> list[Finding]:
    """Finds classes of the labels that are in no mask."""
    if seen.matrix is None or seen.holding is None or seen.constant_images == seen.images:
        return []
    truth = seen.matrix.sum(1)
    predicted = seen.matrix.sum(0)[: len(truth)]
    missing = np.flatnonzero((truth > 0) & (predicted == 0))
    if not len(missing):
        return []
    names = case.dataset.label_set.names  # type: ignore[union-attr]
    shares = truth / truth.sum()
    common = (shares >= _COMMON) & (seen.holding >= _SEVERAL)
    make = problem if common[missing].any() else warning
    return [
        make(
            "never_predicted",
            "no mask contains "
            + some(
                [
                    f"{names[i]!r} ({shares[i]:.2%} of the labelled pixels, in {seen.holding[i]} "
                    f"of {seen.images} photos)"
                    for i in missing
                ]
            ),
            "Weight rare classes in the loss (median frequency), train longer; if the float file "
            "finds them, see the findings on ranges and layers.",
        )
    ]


def class_outside(case: Case, seen: Observations) -> list[Finding]:
    """Finds class ids outside the label set."""
    if seen.matrix is None or not seen.matrix.sum():
        return []
    share = seen.matrix[:, -1].sum() / seen.matrix.sum()
    if share < _OUTSIDE:
        return []
    known = case.dataset.label_set.num_classes  # type: ignore[union-attr]
    return [
        problem(
            "class_outside",
            f"{share:.1%} of the labelled pixels have a class id of {known} or more, which "
            f"{case.dataset.name} does not have",  # type: ignore[union-attr]
            "Use the data set and label list of the training; look for a background class that "
            "one of them lacks.",
        )
    ]


def label_order(case: Case, seen: Observations) -> list[Finding]:
    """Checks that each class index has the name that the label list gives it.

    If most pixels of a class are predicted as one index, and most pixels of that index are of this
    class, then the name at that index must be the class's. A single wrong pair may be two classes
    that look alike; a wrong order shows in at least two places.

    Args:
        case: the file and its label list.
        seen: the confusion matrix.
    """
    if seen.matrix is None or case.dataset is None:
        return []
    truth = case.dataset.label_set.names
    names = case.labels if len(case.labels) == len(truth) else truth
    wrong, moved = [], []
    for row, column in _mutual_pairs(seen.matrix[:, : len(truth)]):
        if row != column:
            moved.append(f"{truth[row]!r} is predicted as index {column}")
        if _plain(names[column]) != _plain(truth[row]) and _known(names[column], truth):
            share = seen.matrix[row, column] / seen.matrix[row].sum()
            wrong.append(
                f"index {column} is called {names[column]!r}, contains {truth[row]!r} "
                f"({share:.0%} of its pixels)"
            )
    if wrong:
        cure = "Put the names in the order of the training's class ids."
        make = problem if len(wrong) > 1 else warning
        return [make("label_order", some(wrong), cure)]
    if moved:
        return [
            warning(
                "label_order",
                f"the list fits the file, but {case.dataset.name} has another order: {some(moved)}",
                "Scores that compare by index are wrong; use the same order in the data set.",
            )
        ]
    return []


def _mutual_pairs(matrix: np.ndarray) -> list[tuple[int, int]]:
    """Returns (class, index) pairs of which each is mostly predicted as, or mostly is, the other.

    The second is counted by pixels: a rare class that is lost in the background does not match it.
    """
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    pairs = []
    for row in np.flatnonzero(matrix.sum(1)):
        column = int(shares[row].argmax())
        if shares[row, column] > _MOSTLY and matrix[:, column].argmax() == row:
            pairs.append((int(row), column))
    return pairs


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ").strip()


def _known(name: str, names: tuple[str, ...]) -> bool:
    return _plain(name) in {_plain(other) for other in names}

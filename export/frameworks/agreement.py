"""Compares a converted file with the framework it comes from, output by output."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

LARGEST_DEVIATION = 1e-3
"""Largest accepted difference of a value, as a share of the range of the framework's values."""
_MOST_PERMUTED = 5
"""Outputs that are tried in every order; more are taken in the file's own order."""


@dataclasses.dataclass(frozen=True)
class OutputAgreement:
    """One output of the file beside the same output of the framework.

    Attributes:
        name: in the framework.
        shape: in the file.
        largest_difference: of a value.
        value_range: largest minus smallest value of the framework.
        equal_classes: of images with several channels the share of positions with the same largest
            one; of anything else that of values that are equal as far as is accepted.
        channels_first: whether the file still gives it with the channels first.
    """

    name: str
    shape: tuple[int, ...]
    largest_difference: float
    value_range: float
    equal_classes: float
    channels_first: bool = False

    @property
    def deviation(self) -> float:
        """The largest difference as a share of the range."""
        if self.value_range == 0:
            return 0.0 if self.largest_difference == 0 else float("inf")
        return self.largest_difference / self.value_range

    @property
    def deviates(self) -> bool:
        """Whether the difference is larger than is accepted."""
        return not self.deviation <= LARGEST_DEVIATION

    def line(self) -> str:
        """Returns the comparison in one line."""
        of = "classes" if len(self.shape) == 4 and self.shape[-1] > 1 else "values"
        return (
            f"output {self.name!r} {list(self.shape)}: largest difference {self.deviation:.2g} of "
            f"the range {self.value_range:.4g}, {100 * self.equal_classes:.3f}% of {of} equal"
        )


def compare_output(name: str, reference: np.ndarray, *, found: np.ndarray) -> OutputAgreement:
    """Compares one output over all inputs.

    Args:
        name: in the framework.
        reference: the framework's, [count, 1, ...].
        found: the file's, of the same number of values.
    """
    first = reference.ndim == 5 and found.shape != reference.shape
    shape = tuple(found.shape[1:])
    if first and found.shape == np.moveaxis(reference, -1, 2).shape:
        found = np.moveaxis(found, 2, -1)
    else:
        first, found = False, found.reshape(reference.shape)
    difference = np.abs(reference.astype(np.float64) - found.astype(np.float64))
    difference[np.isnan(reference) & np.isnan(found)] = 0
    limits = reference.astype(np.float64)
    value_range = float(limits.max() - limits.min())
    equal = difference <= LARGEST_DEVIATION * value_range
    if np.issubdtype(reference.dtype, np.integer):
        equal = difference == 0
    elif reference.ndim == 5 and reference.shape[-1] > 1:
        equal = reference.argmax(-1) == found.argmax(-1)
    return OutputAgreement(
        name,
        shape,
        largest_difference=float(np.nan_to_num(difference, nan=np.inf).max()),
        value_range=value_range,
        equal_classes=float(equal.mean()),
        channels_first=first,
    )


def match_outputs(
    names: Sequence[str], references: Sequence[np.ndarray], *, found: Sequence[np.ndarray]
) -> tuple[list[int], list[OutputAgreement]]:
    """Finds which output of the file is which of the framework, by shape and value.

    Args:
        names: of the outputs in the framework.
        references: the framework's, [count, 1, ...] each.
        found: the file's, in the order of the file.

    Returns:
        For each output of the framework its position in the file, and the comparison.

    Raises:
        ValueError: another number of outputs, or shapes that do not fit.
    """
    if len(references) != len(found):
        raise ValueError(
            f"expected the framework's {len(references)} outputs, got {len(found)} in the file; "
            "choose those that are needed with --outputs"
        )
    count = len(found)
    orders = [tuple(range(count))]
    if count <= _MOST_PERMUTED:
        orders = list(itertools.permutations(range(count)))
    best: tuple[float, tuple[int, ...], list[OutputAgreement]] | None = None
    for order in orders:
        if any(references[i].size != found[place].size for i, place in enumerate(order)):
            continue
        results = [
            compare_output(names[i], references[i], found=found[place])
            for i, place in enumerate(order)
        ]
        worst = max(result.deviation for result in results)
        if best is None or worst < best[0]:
            best = (worst, order, results)
        if worst <= LARGEST_DEVIATION:
            break
    if best is None:
        shapes = [[list(array.shape[1:]) for array in arrays] for arrays in (references, found)]
        raise ValueError(f"expected outputs of the shapes {shapes[0]}, got {shapes[1]} in the file")
    return list(best[1]), best[2]

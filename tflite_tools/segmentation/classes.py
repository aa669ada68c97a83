"""Names and colours of a file's classes, for pictures."""

import dataclasses
import enum

import numpy as np

from deeplab_tf.data.labels import IGNORE_COLOR, IGNORE_LABEL
from deeplab_tf.data.palette import Color, distinct_colors
from tflite_tools.contract import ModelContract
from tflite_tools.deployment.metadata_description import check_labels

_BACKGROUND_NAMES = ("background", "bg", "void", "none", "other", "others", "unlabeled")
_BLACK = (0, 0, 0)
_PALETTE = 256


class ColorChoice(enum.Enum):
    """Where the colours of classes come from."""

    DISTINCT = "distinct"
    """Ours, which colour-blind readers tell apart; black for class 0 if it is a background."""
    FILE = "file"
    """Of the manifest, such as the data set's own; PASCAL VOC's where it has none."""


@dataclasses.dataclass(frozen=True)
class ClassList:
    """The classes of one file.

    Attributes:
        names: of the classes 0, 1, ...; classes beyond them are called by their number.
        colors: 256 colours by class.
        background: whether class 0 is a background, which pictures leave untinted.
        unused: value of pixels without a class, or None.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...]
    background: bool
    unused: int | None = None

    def name(self, label: int) -> str:
        """Returns the name of a class.

        Args:
            label: its number.
        """
        if label == self.unused:
            return "no class"
        return self.names[label] if label < len(self.names) else f"class {label}"

    def color(self, label: int) -> Color:
        """Returns the colour of a class; beyond 256 classes they repeat.

        Args:
            label: its number.
        """
        return self.colors[label % _PALETTE]

    def table(self, largest: int) -> np.ndarray:
        """Returns the colours of the classes 0..largest, uint8 [classes, 3].

        Args:
            largest: class that occurs.
        """
        return np.array([self.color(label) for label in range(largest + 1)], np.uint8)

    def shares(self, mask: np.ndarray) -> dict[int, float]:
        """Returns the share of the picture of each class that occurs, the largest first.

        Args:
            mask: unsigned [height, width].
        """
        counts = np.bincount(mask.ravel())
        order = np.argsort(-counts, kind="stable")
        return {int(label): float(counts[label] / mask.size) for label in order if counts[label]}


@dataclasses.dataclass(frozen=True)
class Model:
    """A file and its classes.

    Attributes:
        contract: how it is fed and read.
        classes: their names and colours.
    """

    contract: ModelContract
    classes: ClassList

    @property
    def name(self) -> str:
        """Name in pictures and tables."""
        return self.contract.name

    @property
    def file_name(self) -> str:
        """The name without characters that separate folders."""
        return self.contract.name.replace("/", "_")


def class_list(
    contract: ModelContract,
    *,
    names: tuple[str, ...] = (),
    choice: ColorChoice = ColorChoice.DISTINCT,
) -> ClassList:
    """Returns the classes of a file.

    Args:
        contract: of the file.
        names: of the caller, or () for the file's own.
        choice: where the colours come from.

    Raises:
        ValueError: the caller's names are not as many as the file's classes.
    """
    if names:
        own = contract.label_set.num_classes if contract.label_set else None
        check_labels(names, contract.num_classes or own, name=str(contract.path))
    elif contract.label_set is not None:
        names = contract.label_set.names
    elif contract.threshold is not None:
        names = ("background", "foreground")
    unused = IGNORE_LABEL if contract.classes_output and len(names) <= IGNORE_LABEL else None
    background = _is_background(contract, names)
    if choice is ColorChoice.FILE and contract.label_set is not None:
        stated = contract.label_set.colors
        colors = (*stated, *distinct_colors(_PALETTE)[len(stated) :])
    elif background or not names:
        colors = (_BLACK, *distinct_colors(_PALETTE - 1))
    else:
        colors = distinct_colors(_PALETTE)
    if unused is not None:
        colors = (*colors[:unused], IGNORE_COLOR)
    return ClassList(names, colors, background, unused)


def _is_background(contract: ModelContract, names: tuple[str, ...]) -> bool:
    if names:
        return names[0].strip("_ ").lower() in _BACKGROUND_NAMES
    return contract.num_classes == 2

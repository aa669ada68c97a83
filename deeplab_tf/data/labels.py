"""Class names, colours and the ignored label of a segmentation data set."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from deeplab_tf.field_types import check_field_types

IGNORE_LABEL = 255
"""Value of label pixels that losses, calibration and metrics ignore."""

IGNORE_COLOR = (224, 224, 192)
"""Colour of ignored pixels: that of index 255 in the PASCAL VOC kit, used by no class."""

MAX_CLASSES = IGNORE_LABEL
"""Labels are uint8 and 255 means ignored, so the largest class id is 254."""


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, background included.

    Attributes:
        names: one name per class, in the order of the label values 0, 1, 2, ...
        colors: one (red, green, blue) per class, each 0..255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        check_field_types(self)
        if not self.names:
            raise ValueError("expected at least one class, got none")
        if len(self.names) > MAX_CLASSES:
            raise ValueError(
                f"expected at most {MAX_CLASSES} classes, because labels are uint8 with "
                f"{IGNORE_LABEL} ignored; got {len(self.names)}"
            )
        if len(self.names) != len(self.colors):
            raise ValueError(
                f"expected one colour per class, got {len(self.names)} names and "
                f"{len(self.colors)} colours"
            )
        for color in self.colors:
            if not all(0 <= value <= 255 for value in color):
                raise ValueError(f"expected colours of 0..255, got {color}")

    @property
    def num_classes(self) -> int:
        """Number of classes, background included."""
        return len(self.names)

    @classmethod
    def from_names(cls, names: Iterable[str]) -> "LabelSet":
        """Builds a label set with the PASCAL VOC colour map, for data without colours."""
        names = tuple(names)
        return cls(names, voc_colormap(len(names)))

    def colorize(self, label: np.ndarray) -> np.ndarray:
        """Converts a label map to colours.

        Args:
            label: integer [height, width]; values outside the classes get IGNORE_COLOR.

        Returns:
            uint8 [height, width, 3], RGB.
        """
        palette = np.full((256, 3), IGNORE_COLOR, np.uint8)
        palette[: self.num_classes] = self.colors
        inside = (label >= 0) & (label < self.num_classes)
        return palette[np.where(inside, label, IGNORE_LABEL).astype(np.uint8)]


def voc_colormap(count: int) -> tuple[tuple[int, int, int], ...]:
    """Computes the colour map of the PASCAL VOC development kit from the bits of each index.

    Source: VOCcode/VOClabelcolormap.m, Everingham et al. 2015.

    Args:
        count: number of colours.

    Returns:
        (red, green, blue) of indices 0..count-1, each 0..255.
    """
    colors = []
    for index in range(count):
        red = green = blue = 0
        for bit in range(8):
            red |= ((index >> (3 * bit)) & 1) << (7 - bit)
            green |= ((index >> (3 * bit + 1)) & 1) << (7 - bit)
            blue |= ((index >> (3 * bit + 2)) & 1) << (7 - bit)
        colors.append((red, green, blue))
    return tuple(colors)

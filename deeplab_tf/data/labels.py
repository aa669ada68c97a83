"""Class names, colours and the ignored label of a segmentation data set."""

import dataclasses

import numpy as np

IGNORE_LABEL = 255
"""Value of a label pixel that no loss, calibration or metric counts."""

IGNORE_COLOR = (224, 224, 192)
"""What ignored pixels are painted: the development kit's colour of index 255, no class's."""

MAX_CLASSES = IGNORE_LABEL
"""Labels are uint8, and 255 is taken: at most classes 0..254."""


@dataclasses.dataclass(frozen=True)
class LabelSet:
    """The classes of a data set, background included.

    Attributes:
        names: one name a class, in the order of the label values 0, 1, 2, ...
        colors: one (red, green, blue) a class, each 0..255.
    """

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]

    def __post_init__(self):
        if not self.names:
            raise ValueError("a label set needs at least one class; none was given")
        if len(self.names) > MAX_CLASSES:
            raise ValueError(
                f"labels are uint8 with {IGNORE_LABEL} ignored, so at most {MAX_CLASSES} "
                f"classes fit; {len(self.names)} were given"
            )
        if len(self.names) != len(self.colors):
            raise ValueError(
                f"each class needs one colour; {len(self.names)} names came with "
                f"{len(self.colors)} colours"
            )

    @property
    def num_classes(self) -> int:
        return len(self.names)

    @classmethod
    def from_names(cls, names) -> "LabelSet":
        """A label set with the PASCAL VOC colour map, for data that brings no colours."""
        names = tuple(names)
        return cls(names, voc_colormap(len(names)))

    def colorize(self, label: np.ndarray) -> np.ndarray:
        """Paints a label.

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
    """The colour map of the PASCAL VOC development kit (bits of the index, spread).

    Source: VOCcode/VOClabelcolormap.m, Everingham et al. 2015.
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

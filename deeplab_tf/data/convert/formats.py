"""The table of label formats. A new one is one module and one line here."""

import dataclasses
import pathlib
from collections.abc import Callable

from deeplab_tf.data.convert import (
    binary,
    coco,
    color_masks,
    cvat,
    labelme,
    roboflow,
    supervisely,
    yolo,
)
from deeplab_tf.data.convert.regions import Annotations
from deeplab_tf.data.convert.source import Source


@dataclasses.dataclass(frozen=True)
class Format:
    """A label format.

    Attributes:
        title: how people call it.
        recognizes: tells from a few files whether a folder holds it.
        read: reads it.
    """

    title: str
    recognizes: Callable[[pathlib.Path], bool]
    read: Callable[[Source], Annotations]


FORMATS = {
    "roboflow": Format("an export of Roboflow", roboflow.recognizes, roboflow.read),
    "supervisely": Format("a Supervisely project", supervisely.recognizes, supervisely.read),
    "cvat": Format("CVAT for images", cvat.recognizes, cvat.read),
    "labelme": Format("LabelMe", labelme.recognizes, labelme.read),
    "coco": Format("COCO", coco.recognizes, coco.read),
    "yolo": Format("YOLO", yolo.recognizes, yolo.read),
    "binary": Format("masks of two values", binary.recognizes, binary.read),
    "color_masks": Format("masks of colours", color_masks.recognizes, color_masks.read),
}
"""By name, in the order in which they are recognized: those with files of their own come first."""


def recognize(folder: pathlib.Path) -> str | None:
    """Returns the name of the format that a folder seems to hold, None if none.

    Args:
        folder: a folder; a few small parts of files in it are read.
    """
    for name, one in FORMATS.items():
        try:
            if one.recognizes(folder):
                return name
        except (OSError, ValueError):
            continue  # what cannot be read is recognized by nobody
    return None


def convert_hint(folder: pathlib.Path) -> str:
    """Returns a sentence with the command that converts a folder, "" if its format is unknown."""
    name = recognize(folder)
    if name is None:
        return ""
    return (
        f"this looks like {FORMATS[name].title}: convert it with `python -m "
        f"deeplab_tf.data.convert --from={name} --input={folder} --output=NEW_FOLDER`"
    )

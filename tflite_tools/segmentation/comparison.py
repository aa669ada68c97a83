"""Compares the masks of several files on one picture."""

import dataclasses
import math

import numpy as np

from tflite_tools.segmentation import overlay
from tflite_tools.segmentation.classes import Model


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One file's mask and picture.

    Attributes:
        model: the file.
        mask: unsigned [height, width].
        picture: uint8 [height, width, 3], the overlay without a legend.
    """

    model: Model
    mask: np.ndarray
    picture: np.ndarray


def comparable(first: Model, other: Model) -> bool:
    """Returns whether a class number means the same in two files, as far as that is known.

    Args:
        first: a file.
        other: another.
    """
    counts = {model.contract.num_classes for model in (first, other)} - {None}
    names = {model.classes.names for model in (first, other)} - {()}
    return len(counts) <= 1 and len(names) <= 1


def agreements(drawn: list[Drawn]) -> dict[str, float]:
    """Returns the share of the pixels where a file gives the class of the first, by name.

    Args:
        drawn: the files that ran, the first of them first.
    """
    return {
        each.model.name: float(np.mean(each.mask == drawn[0].mask))
        for each in drawn[1:]
        if comparable(drawn[0].model, each.model)
    }


def comparison_sheet(photo: np.ndarray, drawn: list[Drawn]) -> np.ndarray:
    """Draws the photo, every file's overlay, and where the others differ from the first.

    Args:
        photo: uint8 [height, width, 3].
        drawn: the files that ran.

    Returns:
        uint8 [height, width, 3], of one size for photos of one size.
    """
    tiles = [("photo", photo), *((each.model.name, each.picture) for each in drawn)]
    others = [each for each in drawn[1:] if comparable(drawn[0].model, each.model)]
    for each in others:
        differs = each.mask != drawn[0].mask
        names = f"{each.model.name} differs from {drawn[0].model.name}"
        caption = f"{names}: {overlay.percent(float(differs.mean()))}"
        tiles.append((caption, overlay.difference(photo, differs)))
    if len(others) > 1:
        differs = np.any([each.mask != drawn[0].mask for each in others], axis=0)
        caption = f"any differs: {overlay.percent(float(differs.mean()))}"
        tiles.append((caption, overlay.difference(photo, differs)))
    columns = math.ceil(math.sqrt(len(tiles)))
    starts = range(0, len(tiles), columns)
    picture = overlay.sheet([tiles[start : start + columns] for start in starts])
    tile = overlay.shrink(photo, overlay.TILE_WIDTH).shape
    for each in drawn:
        panel = overlay.legend(
            each.model.classes,
            each.model.classes.shares(each.mask),
            shape=tile,
            height=picture.shape[0],
            title=each.model.name,
        )
        picture = overlay.beside(picture, panel)
    return picture

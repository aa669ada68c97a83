"""Masks of two values, one of them 0: one class against the background.

Two names in --classes are those of 0 and of the other value. With a folder per class
(masks/road/x.png, masks/car/x.png) each is a class, and a pixel of several gets the class that is
later in the alphabet.
"""

import collections
import pathlib

import numpy as np

from deeplab_tf.data.convert.color_masks import (
    check_lossless,
    count_codes,
    photos_of,
    some_masks,
)
from deeplab_tf.data.convert.pairing import Key, Pairing, find_pairs
from deeplab_tf.data.convert.photos import open_picture, read_pixels
from deeplab_tf.data.convert.rasterizer import color_text
from deeplab_tf.data.convert.regions import Annotations, ClassName, MaskFile
from deeplab_tf.data.convert.source import Source

FOREGROUND = "foreground"
_WHITE = 0xFFFFFF


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds masks of 0 and 255, or of black and white."""
    seen: set[int] = set()
    for path in some_masks(folder):
        with open_picture(path, str(path)) as picture:
            if picture.mode == "P":
                return False
            seen |= set(np.unique(read_pixels(picture, str(path), mode="RGB")).tolist())
    return seen == {0, 255}


def read(source: Source) -> Annotations:
    """Reads masks of two values.

    Raises:
        FileNotFoundError: no photos or no masks.
        ValueError: JPEG masks, or masks of more values than two.
    """
    pairing = find_pairs(source)
    check_lossless(list(pairing.masks.values()), source)
    codes = count_codes(list(pairing.masks.values()), by_color=True, source=source)
    if not codes:  # none could be read: the reason is better than "no colour"
        source.findings.settle()
    white = _foreground_code(codes, source)
    owners = _class_of_masks(pairing, source)
    names = sorted({name for _, name in owners.values()})
    under = _named_background(source, owners)
    masks: dict[Key, list[MaskFile]] = collections.defaultdict(list)
    for key, (photo, name) in sorted(owners.items(), key=lambda item: item[1][1]):
        table: dict[int, str | None] = {0: under, white: name}
        masks[photo].append(
            MaskFile(pairing.masks[key], table, by_color=True, snap=source.snap_colors)
        )
    photos = photos_of(pairing, {k: tuple(v) for k, v in masks.items()}, source=source)
    if under is not None:
        names = [under, *names]
    return Annotations(
        tuple(ClassName(name) for name in names),
        photos,
        unlabelled_means_background=under is None,
    )


def _named_background(source: Source, owners: dict[Key, tuple[Key, str]]) -> str | None:
    """The first of two given classes, if there is one mask per photo: what 0 means."""
    one_each = all(key == photo for key, (photo, _) in owners.items())
    given = source.classes.names if source.classes else ()
    return given[0] if one_each and len(given) == 2 else None


def _foreground_code(counts: collections.Counter[int], source: Source) -> int:
    """The code that is not 0."""
    others = [code for code in counts if code]
    if source.snap_colors:
        return _WHITE
    if len(others) == 1:
        return others[0]
    shown = ", ".join(f"({color_text(code)})" for code in sorted(counts)[:6])
    if not others:
        raise ValueError(
            f"{source.path}: the masks hold only black; expected 0 and one other value"
        )
    raise ValueError(
        f"{source.path}: the masks hold {len(counts)} colours, {shown}; expected 0 and one other; "
        "give --from=color_masks if each is a class, or --snap_colors for black and white"
    )


def _class_of_masks(pairing: Pairing, source: Source) -> dict[Key, tuple[Key, str]]:
    """{key of a mask: (key of its photo, name of its class)}."""
    given = source.classes.names if source.classes else ()
    single = given[1] if len(given) == 2 else FOREGROUND
    owners = {}
    for key in pairing.masks:
        photo, name = key, single
        if key not in pairing.photos:
            for position in range(len(key) - 1):
                shorter = key[:position] + key[position + 1 :]
                if shorter in pairing.photos:
                    photo, name = shorter, key[position]
        owners[key] = (photo, name)
    return owners

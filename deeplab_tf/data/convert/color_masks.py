"""Masks whose colours mean classes, with or without a list of them.

The colours come from --classes, from CVAT's labelmap.txt or from class_dict.csv, or are discovered:
each colour is then a class named after it, to be renamed in classes.txt.
"""

import collections
import pathlib
import sys

import numpy as np
from tqdm import tqdm

from deeplab_tf.data.convert.pairing import Key, Pairing, find_pairs
from deeplab_tf.data.convert.photos import open_picture, read_pixels, split_of
from deeplab_tf.data.convert.rasterizer import color_text, read_codes
from deeplab_tf.data.convert.regions import Annotations, ClassName, MaskFile, Photo
from deeplab_tf.data.convert.source import Source, read_table, some_files
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.labels import voc_colormap
from deeplab_tf.data.readers.folder import IMAGE_ENDINGS

MAX_COLORS = 64
"""More colours than this are no classes but smooth edges."""
LABEL_MAP, CLASS_TABLE = "labelmap.txt", "class_dict.csv"
_LOSSY = ("JPEG", "MPO", "WEBP")


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds photos and masks of colours."""
    if some_files(folder, LABEL_MAP, limit=1) or some_files(folder, CLASS_TABLE, limit=1):
        return True
    for path in some_masks(folder):
        with open_picture(path, str(path)) as picture:
            if picture.mode in ("RGB", "RGBA"):
                pixels = read_pixels(picture, str(path), mode="RGB")
                return bool((pixels.max(2) != pixels.min(2)).any())
    return False


def some_masks(folder: pathlib.Path) -> list[pathlib.Path]:
    """Up to 5 mask pictures of each usual place."""
    found = []
    for pattern in ("labels/*", "masks/*", "mask/*", "SegmentationClass/*", "*_mask.*"):
        paths = some_files(folder, pattern)
        found += [path for path in paths if path.suffix.lower() in IMAGE_ENDINGS]
    return found


def read(source: Source) -> Annotations:
    """Reads masks of colours.

    Raises:
        FileNotFoundError: no photos or no masks.
        ValueError: JPEG masks, or more colours than classes can be.
    """
    pairing = find_pairs(source)
    check_lossless(list(pairing.masks.values()), source)
    table = _table(source)
    if table is None:
        if source.snap_colors:
            raise ValueError(
                "--snap_colors needs the colours of the classes; give --classes=FILE with one line "
                "`name red green blue` per class"
            )
        table = _discovered(pairing, source)
    codes: dict[int, str | None] = dict(table)
    photos = photos_of(
        pairing,
        {
            key: (MaskFile(path, codes, by_color=True, snap=source.snap_colors),)
            for key, path in pairing.masks.items()
        },
        source=source,
    )
    classes = tuple(
        ClassName(name, (code >> 16, code >> 8 & 255, code & 255)) for code, name in table.items()
    )
    return Annotations(classes, photos, unlabelled_means_background=False)


def check_lossless(masks: list[pathlib.Path], source: Source) -> None:
    """Refuses masks that a lossy format has changed, unless colours are to be snapped.

    Raises:
        ValueError: a mask in JPEG or in lossy WebP.
    """
    lossy = []
    for path in masks:
        with open_picture(path, str(path)) as picture:
            if picture.format in _LOSSY:
                lossy.append(path)
    if lossy and not source.snap_colors:
        more = f" and {len(lossy) - 1} more" if len(lossy) > 1 else ""
        raise ValueError(
            f"{lossy[0]}{more}: a JPEG or WebP mask; compression changes colours near every edge, "
            "so pixels there have no certain class; save masks as PNG, or accept the nearest "
            "colour with --snap_colors"
        )


def photos_of(
    pairing: Pairing, masks: dict[Key, tuple[MaskFile, ...]], *, source: Source
) -> tuple[Photo, ...]:
    """Joins photos and their masks; a mask without a photo is a fault.

    Args:
        pairing: the photos.
        masks: {key: masks of the photo}.
        source: gets faults and notes.
    """
    for key, files in masks.items():
        if key not in pairing.photos:
            source.findings.fault(f"{files[0].path}: names no photo; none is named {key[-1]}")
    photos = []
    for key, path in pairing.photos.items():
        name = path.relative_to(pairing.root).as_posix()
        if key not in masks:
            source.findings.note("photos have no mask: left out", name)
            continue
        split = next(filter(None, (split_of(part) for part in key[:-1])), "")
        photos.append(Photo(name, path, masks=masks[key], split=split))
    if not photos:
        source.findings.settle()
        raise FileNotFoundError(f"{pairing.root}: no photo has a mask of its name")
    return tuple(photos)


def _table(source: Source) -> dict[int, str] | None:
    """{code of a colour: class}, in the order of the ids; None if nothing says it."""
    if source.classes is not None:
        rows = zip(source.classes.names, source.classes.colors, strict=True)
        return _coded(list(rows), "--classes")
    if paths := some_files(source.folder, LABEL_MAP, limit=1):
        return _coded(_label_map(paths[0]), str(paths[0]))
    if paths := some_files(source.folder, CLASS_TABLE, limit=1):
        return _coded(_class_table(paths[0]), str(paths[0]))
    return None


def _coded(rows: list[tuple[str, tuple[int, int, int]]], place: str) -> dict[int, str]:
    table: dict[int, str] = {}
    for name, (red, green, blue) in rows:
        code = red << 16 | green << 8 | blue
        if code in table or name in table.values():
            raise ValueError(
                f"{place}: {name!r} with colour {color_text(code)}: name and colour of a class "
                "must occur once"
            )
        table[code] = name
    return table


def _label_map(path: pathlib.Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Lines `name:red,green,blue:parts:actions`; without a colour, that of the VOC colour map."""
    rows: list[tuple[str, tuple[int, int, int]]] = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        fields = rest.partition(":")[0]
        default = voc_colormap(len(rows) + 1)[-1]
        color = _color(fields.split(","), f"{path}:{number}") if fields.strip() else default
        rows.append((name.strip(), color))
    return rows


def _class_table(path: pathlib.Path) -> list[tuple[str, tuple[int, int, int]]]:
    """Rows `name,r,g,b` below a title."""
    rows = read_table(path)[1:]
    return [
        (row[0].strip(), _color(row[1:4], f"{path}:{number}"))
        for number, row in enumerate(rows, 2)
        if row
    ]


def _color(fields: list[str], place: str) -> tuple[int, int, int]:
    try:
        red, green, blue = (int(field) for field in fields)
        if not all(0 <= value <= 255 for value in (red, green, blue)):
            raise ValueError("out of range")
    except ValueError as error:
        raise ValueError(f"{place}: expected a colour of 3 numbers 0..255 ({error})") from None
    return red, green, blue


def _discovered(pairing: Pairing, source: Source) -> dict[int, str]:
    counts = count_codes(list(pairing.masks.values()), by_color=True, source=source)
    if len(counts) > MAX_COLORS:
        common = counts.most_common(8)
        shown = "; ".join(f"{color_text(code)} ({pixels} pixels)" for code, pixels in common)
        raise ValueError(
            f"{len(counts)} colours in the masks, the most frequent: {shown}; so many come from "
            "smooth resizing, soft edges or JPEG; give --classes=FILE (`name red green blue`) "
            "and --snap_colors"
        )
    return {code: f"color_{code:06x}" for code in sorted(counts)}


def count_codes(
    masks: list[pathlib.Path], *, by_color: bool, source: Source
) -> collections.Counter[int]:
    """Counts the pixels of each code over all masks; one that cannot be read is a fault.

    Args:
        masks: paths of the masks.
        by_color: see `MaskFile`.
        source: gets faults.
    """
    counts: collections.Counter[int] = collections.Counter()
    for path in tqdm(masks, unit=" masks", file=sys.stderr, disable=None):
        try:
            codes = read_codes(MaskFile(path, {}, by_color=by_color))
        except (ValueError, OSError) as error:
            source.findings.fault(str(error))
            continue
        found, pixels = np.unique(codes, return_counts=True)
        counts.update(dict(zip(found.tolist(), pixels.tolist(), strict=True)))
    return counts

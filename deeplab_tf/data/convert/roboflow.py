"""Roboflow: exports in folders train, valid and test, in one of three forms.

`_annotations.coco.json` is COCO, data.yaml is YOLO, and `_classes.csv` names the values of masks
`x_mask.png` that lie beside the photos.
"""

import pathlib

from deeplab_tf.data.convert import coco, yolo
from deeplab_tf.data.convert.color_masks import photos_of
from deeplab_tf.data.convert.pairing import find_pairs
from deeplab_tf.data.convert.regions import BACKGROUND_NAMES, Annotations, ClassName, MaskFile
from deeplab_tf.data.convert.source import Source, mentions, read_table, some_files

COCO_FILE, CLASSES_FILE = "_annotations.coco.json", "_classes.csv"
_YOLO_FILE = "data.yaml"
_LARGEST_VALUE = 65535


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds an export of Roboflow."""
    return bool(
        some_files(folder, COCO_FILE, limit=1)
        or some_files(folder, CLASSES_FILE, limit=1)
        or any(mentions(path, "roboflow") for path in some_files(folder, _YOLO_FILE))
    )


def read(source: Source) -> Annotations:
    """Reads an export in any of the three forms.

    Raises:
        FileNotFoundError: none of the three files is there, or no photos.
        ValueError: files without the form that their name says.
    """
    if some_files(source.folder, COCO_FILE, limit=1):
        return coco.read(source)
    tables = some_files(source.folder, CLASSES_FILE)
    if tables:
        return _read_masks(source, tables)
    if some_files(source.folder, _YOLO_FILE, limit=1):
        return yolo.read(source)
    raise FileNotFoundError(
        f"{source.path}: none of {COCO_FILE}, {CLASSES_FILE} and {_YOLO_FILE}; export the version "
        "as COCO Segmentation, Semantic Segmentation Masks or YOLO"
    )


def _read_masks(source: Source, tables: list[pathlib.Path]) -> Annotations:
    values = _values(tables[0])
    for path in tables[1:]:
        if _values(path) != values:
            raise ValueError(f"{path}: names other classes than {tables[0]}; convert one by one")
    codes: dict[int, str | None] = {
        value: None if name.lower() in BACKGROUND_NAMES else name for value, name in values.items()
    }
    pairing = find_pairs(source)
    photos = photos_of(
        pairing,
        {
            key: (MaskFile(path, codes, by_color=False, snap=source.snap_colors),)
            for key, path in pairing.masks.items()
        },
        source=source,
    )
    classes = tuple(ClassName(values[value]) for value in sorted(values))
    return Annotations(classes, photos)


def _values(path: pathlib.Path) -> dict[int, str]:
    """{value of a pixel: class} of rows `value, class` below a title."""
    values = {}
    for number, row in enumerate(read_table(path), 1):
        if number == 1 or not row:
            continue
        try:
            value = int(row[0])
            if not 0 <= value <= _LARGEST_VALUE:
                raise ValueError(f"a mask holds no {value}")
            values[value] = row[1].strip()
        except (ValueError, IndexError) as error:
            raise ValueError(f"{path}:{number}: expected `value, class` ({error})") from None
    if not values:
        raise ValueError(f"{path}: names no class; expected rows `value, class` below a title")
    return values

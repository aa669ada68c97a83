"""LabelMe: one JSON file per photo, with shapes.

A later shape lies over an earlier one, as LabelMe draws them. A photo that is not there is taken
from `imageData`. `_background_` is the background, `__ignore__` is ignored.
"""

import base64
import binascii
import pathlib
from typing import Any

import numpy as np

from deeplab_tf.data.convert.photos import PhotoIndex
from deeplab_tf.data.convert.regions import (
    Annotations,
    Bitmap,
    ClassName,
    Ellipse,
    Photo,
    Region,
    Shape,
)
from deeplab_tf.data.convert.source import (
    LARGEST_PHOTO_JSON_BYTES,
    Source,
    as_pixels,
    as_points,
    box_polygon,
    member,
    mentions,
    polygon_of,
    read_json,
    some_files,
)

_AREAS = ("polygon", "rectangle", "circle", "mask")


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds LabelMe files."""
    return any(mentions(path, '"shapes"', '"version"') for path in some_files(folder, "*.json"))


def read(source: Source) -> Annotations:
    """Reads all LabelMe files of a folder; classes are in the order of their names.

    Raises:
        FileNotFoundError: no such files.
        ValueError: a file without the form of LabelMe.
    """
    files = [source.path]
    if source.path.is_dir():
        files = sorted(path for path in source.folder.rglob("*.json") if path.is_file())
    index = source.photos()
    photos, names, taken = [], set(), set()
    for path in files:
        try:
            document = read_json(path, limit=LARGEST_PHOTO_JSON_BYTES)
            if not isinstance(document, dict) or "shapes" not in document:
                source.findings.note("JSON files have no shapes: not read", str(path))
                continue
            photo = _photo(document, path, index=index, source=source)
            if photo.name in taken:
                raise ValueError(f"{path}: {photo.name} is annotated in another file too")
        except (ValueError, FileNotFoundError) as error:
            source.findings.fault(str(error))
            continue
        taken.add(photo.name)
        photos.append(photo)
        names |= {region.class_name for region in photo.regions}
    if not photos:
        source.findings.settle()
        raise FileNotFoundError(f"{source.path}: no LabelMe file (.json with shapes) in it")
    for path in index.paths:
        if index.name(path) not in taken:
            source.findings.note("photos have no LabelMe file: left out", index.name(path))
    return Annotations(tuple(ClassName(name) for name in sorted(names)), tuple(photos))


def _photo(document: Any, path: pathlib.Path, *, index: PhotoIndex, source: Source) -> Photo:
    size = tuple(
        member(document, key, kind=int, place=str(path)) for key in ("imageHeight", "imageWidth")
    )
    regions = []
    for number, shape in enumerate(member(document, "shapes", kind=list, place=str(path))):
        place = f"{path}, shape {number}"
        name = member(shape, "label", kind=str, place=place).strip()
        try:
            area = _shape(shape, place, source=source)
        except ValueError as error:
            source.findings.fault(str(error))
            continue
        if area is not None:
            regions.append(Region(name, area, place=place))
    named = member(document, "imagePath", kind=str, place=str(path))
    try:
        file = index.find(named, place=str(path), near=path.parent.name)
    except FileNotFoundError:
        if not document.get("imageData"):
            raise
        return Photo(
            path.relative_to(source.folder).as_posix(),
            path,
            size=(size[0], size[1]),
            regions=tuple(regions),
            read=lambda: _image_data(path),
        )
    return Photo(index.name(file), file, size=(size[0], size[1]), regions=tuple(regions))


def _image_data(path: pathlib.Path) -> bytes:
    """Returns the picture that a file holds; it is read again, because all would fill memory."""
    document = read_json(path, limit=LARGEST_PHOTO_JSON_BYTES)
    data = member(document, "imageData", kind=str, place=str(path))
    return _decoded(data, f"{path}, imageData")


def _decoded(text: str, place: str) -> bytes:
    try:
        return base64.b64decode(text, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"{place}: expected base64 ({error})") from error


def _shape(shape: Any, place: str, *, source: Source) -> Shape | None:
    kind = shape.get("shape_type") or "polygon"
    points = as_points(member(shape, "points", kind=list, place=place), place)
    if kind not in _AREAS:
        source.findings.note(f"shapes of kind {kind!r} cover no area: left out", place)
        return None
    if kind == "polygon":
        return polygon_of([points], source, place=place)
    if len(points) < 2:
        raise ValueError(f"{place}: expected 2 points of a {kind}, got {len(points)}")
    if kind == "circle":
        radius = float(np.hypot(*(points[1] - points[0])))
        return Ellipse((float(points[0, 0]), float(points[0, 1])), (radius, radius))
    (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
    if kind == "rectangle":
        return box_polygon(left, top, right=right, bottom=bottom)
    content = _decoded(member(shape, "mask", kind=str, place=place), place)
    left, top = as_pixels([left, top], place)
    return Bitmap(content, left=left, top=top)

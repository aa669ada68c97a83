"""Supervisely: a project folder with meta.json, and per data set `ann/` and `img/`.

A later object lies over an earlier one. Coordinates of outlines are pixel indices; the pixels of
an outline belong to the object, those of a hole's outline do not. A `bitmap` is a PNG, packed with
zlib, in base64.
"""

import base64
import binascii
import pathlib
import zlib
from typing import Any

from deeplab_tf.data.convert.photos import PhotoIndex, split_of
from deeplab_tf.data.convert.regions import (
    Annotations,
    Bitmap,
    ClassName,
    Photo,
    Region,
    Shape,
    Vertices,
)
from deeplab_tf.data.convert.source import (
    LARGEST_PHOTO_JSON_BYTES,
    Source,
    as_pixels,
    as_points,
    hex_color,
    member,
    mentions,
    polygon_of,
    read_json,
    some_files,
)

META_FILE = "meta.json"
_ANNOTATIONS = "ann"
_MAX_BITMAP_BYTES = 1 << 28
_AREAS = ("polygon", "bitmap", "rectangle")


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds a Supervisely project."""
    return any(mentions(path, '"classes"', '"title"') for path in some_files(folder, META_FILE))


def read(source: Source) -> Annotations:
    """Reads a project; classes are in the order of meta.json.

    Raises:
        FileNotFoundError: no meta.json, or no photos.
        ValueError: files without the form of Supervisely.
    """
    metas = some_files(source.folder, META_FILE, limit=1)
    if not metas:
        raise FileNotFoundError(
            f"{source.folder}: no {META_FILE} in it; give the folder of the Supervisely project"
        )
    meta, index = metas[0], source.photos()
    classes = {}
    for one in member(read_json(meta), "classes", kind=list, place=str(meta)):
        name = member(one, "title", kind=str, place=f"{meta}, classes")
        classes[name] = ClassName(name, hex_color(one.get("color")))
    photos, taken = [], set()
    for path in sorted(meta.parent.rglob("*.json")):
        if path.parent.name != _ANNOTATIONS or not path.is_file():
            continue
        try:
            photo = _photo(path, classes, index=index, source=source)
        except (ValueError, FileNotFoundError) as error:
            source.findings.fault(str(error))
            continue
        taken.add(photo.path)
        photos.append(photo)
    if not photos:
        source.findings.settle()
        raise FileNotFoundError(f"{meta.parent}: no file in a folder {_ANNOTATIONS}/")
    for other in index.paths:
        if other not in taken:
            source.findings.note("photos have no annotation file: left out", index.name(other))
    return Annotations(tuple(classes.values()), tuple(photos))


def _photo(
    path: pathlib.Path, classes: dict[str, ClassName], *, index: PhotoIndex, source: Source
) -> Photo:
    document = read_json(path, limit=LARGEST_PHOTO_JSON_BYTES)
    size = member(document, "size", kind=dict, place=str(path))
    height, width = (member(size, k, kind=int, place=str(path)) for k in ("height", "width"))
    folder = path.parent.parent.name
    file = index.find(f"{folder}/img/{path.stem}", place=str(path), near=folder)
    regions = []
    for number, one in enumerate(member(document, "objects", kind=list, place=str(path))):
        place = f"{path}, object {number}"
        try:
            name = member(one, "classTitle", kind=str, place=place)
            if name not in classes:
                raise ValueError(f"{place}: class {name!r} is not in {META_FILE}")
            shape = _shape(one, place, source=source)
        except ValueError as error:
            source.findings.fault(str(error))
            continue
        if shape is not None:
            regions.append(Region(name, shape, place=place))
    return Photo(
        index.name(file),
        file,
        size=(height, width),
        regions=tuple(regions),
        split=split_of(folder),
    )


def _shape(one: Any, place: str, *, source: Source) -> Shape | None:
    kind = one.get("geometryType")
    if kind not in _AREAS:
        source.findings.note(f"figures of kind {kind!r} cover no area: left out", place)
        return None
    if kind == "bitmap":
        bitmap = member(one, "bitmap", kind=dict, place=place)
        left, top = as_pixels(bitmap.get("origin"), f"{place}, origin")
        content = _unpacked(member(bitmap, "data", kind=str, place=place), place)
        return Bitmap(content, left=left, top=top)
    points = member(one, "points", kind=dict, place=place)
    outline = as_points(member(points, "exterior", kind=list, place=place), place)
    inner = member(points, "interior", kind=list, place=place) if points.get("interior") else []
    holes = [as_points(ring, place) for ring in inner]
    if kind == "rectangle":
        if len(outline) != 2:
            raise ValueError(f"{place}: expected 2 corners of a rectangle, got {len(outline)}")
        (left, top), (right, bottom) = outline
        outline = as_points([left, top, right, top, right, bottom, left, bottom], place)
    return polygon_of([outline], source, place=place, holes=holes, vertices=Vertices.PIXELS)


def _unpacked(text: str, place: str) -> bytes:
    try:
        unpacker = zlib.decompressobj()
        content = unpacker.decompress(base64.b64decode(text), _MAX_BITMAP_BYTES)
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"{place}: expected a bitmap in zlib and base64 ({error})") from error
    if unpacker.unconsumed_tail:
        raise ValueError(f"{place}: its bitmap unpacks to more than {_MAX_BITMAP_BYTES} bytes")
    return content

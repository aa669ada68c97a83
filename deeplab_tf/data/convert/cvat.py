"""CVAT for images 1.1: one XML file with images, and in each polygons, masks, boxes, ellipses.

Shapes lie over each other by z_order, then by the order of the file. Run lengths of masks go along
the rows of their box.
"""

import pathlib
from xml.etree.ElementTree import Element

import defusedxml
import numpy as np
from defusedxml import ElementTree

from deeplab_tf import bounded_file
from deeplab_tf.data.convert.photos import PhotoIndex, split_of
from deeplab_tf.data.convert.regions import (
    Annotations,
    ClassName,
    Ellipse,
    Photo,
    Region,
    RunLengths,
    Shape,
)
from deeplab_tf.data.convert.source import (
    Source,
    as_points,
    box_polygon,
    hex_color,
    mentions,
    polygon_of,
    some_files,
)

LARGEST_XML_BYTES = 1_000_000_000
_FOR_IMAGES = "export the task again as `CVAT for images 1.1`"


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds CVAT's XML."""
    return any(mentions(path, "<annotations>", "<meta>") for path in some_files(folder, "*.xml"))


def read(source: Source) -> Annotations:
    """Reads one XML file, or the XML files of a folder.

    Raises:
        FileNotFoundError: no XML file, or no photos.
        ValueError: a file without the form of CVAT for images.
    """
    files = [source.path]
    if source.path.is_dir():
        files = sorted(path for path in source.folder.rglob("*.xml") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{source.path}: no .xml file in it; {_FOR_IMAGES}")
    index = source.photos()
    classes: dict[str, ClassName] = {}
    photos: dict[pathlib.Path, Photo] = {}
    for path in files:
        root = _parse(path)
        for label in root.findall("./meta//labels/label"):
            name = (label.findtext("name") or "").strip()
            classes.setdefault(name, ClassName(name, hex_color(label.findtext("color") or "")))
        for image in root.findall("./image"):
            try:
                photo = _photo(image, path, classes=classes, index=index, source=source)
            except (ValueError, FileNotFoundError) as error:
                source.findings.fault(str(error))
                continue
            if photo.path in photos:
                source.findings.fault(f"{path}: {photo.name} is annotated twice; remove one")
            photos[photo.path] = photo
    if not photos:
        source.findings.settle()
        raise ValueError(f"{source.path}: no <image> in it; {_FOR_IMAGES}")
    return Annotations(tuple(classes.values()), tuple(photos.values()))


def _parse(path: pathlib.Path) -> Element:
    bounded_file.check_size(path, limit=LARGEST_XML_BYTES)
    try:
        root = ElementTree.parse(path, forbid_dtd=True).getroot()
    except (ElementTree.ParseError, defusedxml.DefusedXmlException, ValueError) as error:
        raise ValueError(f"{path}: not an XML file of CVAT ({error})") from error
    if root is None or root.tag != "annotations":
        raise ValueError(
            f"{path}: expected <annotations>, got <{'' if root is None else root.tag}>"
        )
    if root.find("./track") is not None:
        raise ValueError(f"{path}: CVAT for video (it has <track>); {_FOR_IMAGES}")
    return root


def _photo(
    image: Element,
    path: pathlib.Path,
    *,
    classes: dict[str, ClassName],
    index: PhotoIndex,
    source: Source,
) -> Photo:
    name = image.get("name", "")
    place = f"{path}, {name}"
    subset = image.get("subset", "")
    file = index.find(name, place=str(path), near=subset)
    ordered = sorted(image, key=lambda one: _whole(one, "z_order", place=place, default="0"))
    regions = []
    for one in ordered:
        label = (one.get("label") or "").strip()
        if one.tag == "tag":
            continue
        try:
            if label not in classes:
                raise ValueError(f"{place}: label {label!r} is not in <labels>")
            shape = _shape(one, place, source=source)
        except ValueError as error:
            source.findings.fault(str(error))
            continue
        if shape is not None:
            regions.append(Region(label, shape, place=place))
    if not regions:
        source.findings.note("photos have no region: background only", index.name(file))
    size = _whole(image, "height", place=place), _whole(image, "width", place=place)
    return Photo(
        index.name(file),
        file,
        size=size,
        regions=tuple(regions),
        split=split_of(subset),
    )


def _number(element: Element, key: str, *, place: str, default: str = "") -> float:
    text = element.get(key, default)
    try:
        return float(text)
    except ValueError:
        raise ValueError(
            f"{place}: expected a number as {key} of <{element.tag}>, got {text!r}"
        ) from None


def _whole(element: Element, key: str, *, place: str, default: str = "") -> int:
    value = _number(element, key, place=place, default=default)
    if not abs(value) < 2**31:
        raise ValueError(
            f"{place}: expected a whole number as {key} of <{element.tag}>, got {value:g}"
        )
    return int(value)


def _shape(one: Element, place: str, *, source: Source) -> Shape | None:
    def numbers(*keys: str) -> list[float]:
        return [_number(one, key, place=place) for key in keys]

    if one.tag == "polygon":
        text = one.get("points", "").replace(";", ",")
        points = as_points([field for field in text.split(",") if field.strip()], place)
        return polygon_of([points], source, place=place)
    if one.tag == "mask":
        box = [_whole(one, key, place=place) for key in ("left", "top", "width", "height")]
        try:
            counts = tuple(int(count) for count in one.get("rle", "").split(","))
        except ValueError:
            raise ValueError(f"{place}: expected whole numbers as rle of <mask>") from None
        return RunLengths(counts, (box[3], box[2]), left=box[0], top=box[1], by_columns=False)
    if one.tag == "ellipse":
        cx, cy, rx, ry = numbers("cx", "cy", "rx", "ry")
        degrees = _number(one, "rotation", place=place, default="0")
        return Ellipse((cx, cy), (rx, ry), degrees=degrees)
    if one.tag == "box":
        left, top, right, bottom = numbers("xtl", "ytl", "xbr", "ybr")
        degrees = _number(one, "rotation", place=place, default="0")
        corners = box_polygon(left, top, right=right, bottom=bottom).outlines[0]
        return polygon_of([_turned(corners, degrees)], source, place=place)
    source.findings.note(f"shapes of kind {one.tag!r} cover no area: left out", place)
    return None


def _turned(points: np.ndarray, degrees: float) -> np.ndarray:
    """Rotates points about their centre, clockwise as the picture is seen."""
    angle = np.deg2rad(degrees)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    center = points.mean(0)
    return (points - center) @ matrix + center

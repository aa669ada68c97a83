"""COCO: one JSON file per split with images, categories and annotations.

Lin et al. 2014, Microsoft COCO, arXiv:1405.0312.

An annotation's outlines are filled and joined (COCO has no holes in outlines; its run lengths
have). Nothing says what lies on top, so smaller regions lie over larger ones. Crowds are regions
like others.
"""

import pathlib
from typing import Any

from deeplab_tf.data.convert.photos import PhotoIndex, split_of
from deeplab_tf.data.convert.regions import (
    Annotations,
    ClassName,
    Overlaps,
    Photo,
    Region,
    RunLengths,
    Shape,
)
from deeplab_tf.data.convert.source import (
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

_NO_OUTLINE = "annotations have a box and no outline: left out (--fill_boxes fills boxes)"


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds COCO files."""
    return any(
        mentions(path, '"images"', '"annotations"') or mentions(path, '"categories"', '"bbox"')
        for path in some_files(folder, "*.json")
    )


def read(source: Source) -> Annotations:
    """Reads one file, or all files of a folder that hold categories and annotations.

    Raises:
        FileNotFoundError: no such file, or no photos.
        ValueError: a file without the form of COCO.
    """
    files = [source.path] if source.path.is_file() else _files(source.path)
    index = source.photos()
    classes: dict[str, ClassName] = {}
    photos: dict[pathlib.Path, Photo] = {}
    for path in files:
        document = read_json(path)
        if not isinstance(document, dict) or "categories" not in document:
            if source.path.is_file():
                member(document, "categories", kind=list, place=str(path))
            source.findings.note("JSON files have no categories: not read", str(path))
            continue
        names = _categories(document, path, source=source)
        classes |= {name: ClassName(name) for name in names.values()}
        for photo in _photos(document, path, names=names, index=index, source=source):
            if photo.path in photos:
                source.findings.fault(
                    f"{path}: {photo.name} is annotated in another file too; give one file as "
                    "--input"
                )
            photos[photo.path] = photo
    if not photos:
        source.findings.settle()
        raise ValueError(f"{source.path}: no COCO file with photos in it")
    return Annotations(
        tuple(classes.values()), tuple(photos.values()), overlaps=Overlaps.SMALLER_ON_TOP
    )


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(path for path in folder.rglob("*.json") if path.is_file())
    if not files:
        raise FileNotFoundError(f"{folder}: no .json file in it; give the folder of COCO's files")
    return files


def _categories(document: Any, path: pathlib.Path, *, source: Source) -> dict[int, str]:
    """Returns {id: name} in the order of the ids."""
    names: dict[int, str] = {}
    for category in member(document, "categories", kind=list, place=str(path)):
        number = member(category, "id", kind=int, place=f"{path}, categories")
        name = member(category, "name", kind=str, place=f"{path}, category {number}").strip()
        if number in names:
            raise ValueError(f"{path}: category id {number} occurs twice; rename one")
        names[number] = name
    ids = sorted(names)
    if ids and ids != list(range(ids[0], ids[0] + len(ids))):
        gap = next(number for number in range(ids[0], ids[-1]) if number not in names)
        source.findings.note(
            f"files have gaps in their category ids (no {gap}): classes are numbered anew",
            str(path),
        )
    return {number: names[number] for number in ids}


def _photos(
    document: Any, path: pathlib.Path, *, names: dict[int, str], index: PhotoIndex, source: Source
) -> list[Photo]:
    regions: dict[int, list[Region]] = {}
    images = {}
    for image in member(document, "images", kind=list, place=str(path)):
        number = member(image, "id", kind=int, place=f"{path}, images")
        images[number] = image
        regions[number] = []
    for annotation in member(document, "annotations", kind=list, place=str(path)):
        try:
            _add_region(annotation, path, names=names, regions=regions, source=source)
        except ValueError as error:
            source.findings.fault(str(error))
    split = split_of(path.stem) or split_of(path.parent.name)
    photos = []
    for number, image in images.items():
        place = f"{path}, image {number}"
        try:
            size = tuple(member(image, key, kind=int, place=place) for key in ("height", "width"))
            file = member(image, "file_name", kind=str, place=place)
            found = index.find(file, place=str(path), near=path.parent.name)
        except (ValueError, FileNotFoundError) as error:
            source.findings.fault(str(error))
            continue
        if not regions[number]:
            source.findings.note("photos have no region: background only", index.name(found))
        photos.append(
            Photo(
                index.name(found),
                found,
                size=(size[0], size[1]),
                regions=tuple(regions[number]),
                split=split,
            )
        )
    return photos


def _add_region(
    annotation: Any,
    path: pathlib.Path,
    *,
    names: dict[int, str],
    regions: dict[int, list[Region]],
    source: Source,
) -> None:
    if isinstance(annotation, dict) and "segments_info" in annotation:
        raise ValueError(
            f"{path}: panoptic COCO; its masks hold segment numbers; give the instances file, or "
            "convert with panopticapi first"
        )
    identity = annotation.get("id", "?") if isinstance(annotation, dict) else "?"
    place = f"{path}, annotation {identity}"
    image = member(annotation, "image_id", kind=int, place=place)
    category = member(annotation, "category_id", kind=int, place=place)
    if image not in regions:
        raise ValueError(f"{place}: image_id {image} names no photo of the file")
    if category not in names:
        known = ", ".join(map(str, names))
        raise ValueError(f"{place}: category_id {category} is unknown; known: {known}")
    shape = _shape(annotation, place, source=source)
    if shape is not None:
        regions[image].append(Region(names[category], shape, place=place))


def _shape(annotation: Any, place: str, *, source: Source) -> Shape | None:
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        size = as_pixels(outline.get("size"), f"{place}, size")
        counts = outline.get("counts")
        if not isinstance(counts, (str, list)):
            raise ValueError(f"{place}: expected run lengths with size and counts")
        if isinstance(counts, list):
            if not all(isinstance(count, int) for count in counts):
                raise ValueError(f"{place}: expected whole numbers as run lengths")
            counts = tuple(counts)
        return RunLengths(counts, size)
    if isinstance(outline, list) and outline:
        rings = outline if isinstance(outline[0], list) else [outline]
        return polygon_of([as_points(ring, place) for ring in rings], source, place=place)
    if not annotation.get("bbox"):
        source.findings.note("annotations have neither outline nor box: left out", place)
        return None
    if not source.fill_boxes:
        source.findings.note(_NO_OUTLINE, place)
        return None
    box = as_points(annotation["bbox"], f"{place}, bbox")
    if box.shape != (2, 2):
        raise ValueError(f"{place}: expected a box of 4 numbers, got {box.size}")
    (left, top), (right, bottom) = box[0], box[0] + box[1]
    return box_polygon(left, top, right=right, bottom=bottom)

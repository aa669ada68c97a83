"""YOLO: a text file per photo, with one line `class x1 y1 x2 y2 ...` per region.

data.yaml names the classes. Coordinates are divided by the width and the height of the picture. A
photo without a text file has no region (so do programs that train on this format). Nothing says
what lies on top, so smaller regions lie over larger ones. Holes do not exist; programs cut them
open along a line of no width, which is filled correctly.
"""

import pathlib
import re
from typing import Any

import numpy as np
import yaml

from deeplab_tf import bounded_file
from deeplab_tf.data.convert.photos import (
    Orientation,
    PhotoIndex,
    files_below,
    read_header,
    split_of,
)
from deeplab_tf.data.convert.regions import Annotations, ClassName, Overlaps, Photo, Polygon, Region
from deeplab_tf.data.convert.source import Source, box_polygon, mentions, polygon_of, some_files
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.label_list import parse_label_lines

NAME_LISTS = ("classes.txt", "obj.names")
LARGEST_YAML_BYTES = 1_000_000
"""The names of 10,000 classes; this reader takes seconds for so much."""
_MOST_NUMBERS = 1 << 16
_SPLIT_KEYS = {"train": "train", "val": "val", "valid": "val", "test": "test"}
_LINE = re.compile(r"\d+(\.0+)?( +[-+.\deE]+)+\s*")
_NO_OUTLINE = "lines have a box and no outline: left out (--fill_boxes fills boxes)"
_IMAGES, _LABELS = "images", "labels"


def recognizes(folder: pathlib.Path) -> bool:
    """Returns whether a folder holds YOLO's text files or its data.yaml."""
    if any(mentions(path, "names:", "train:") for path in some_files(folder, "*.y*ml")):
        return True
    texts = [path for path in some_files(folder, "*.txt", limit=50) if path.parent.name == _LABELS]
    texts += some_files(folder / _LABELS, "*.txt")
    return any(_is_labels(path) for path in texts[:5])


def _is_labels(path: pathlib.Path) -> bool:
    with path.open(errors="replace") as stream:
        return bool(_LINE.fullmatch(stream.readline(1 << 16)))


def read(source: Source) -> Annotations:
    """Reads a data set; classes are in the order of their numbers.

    Raises:
        FileNotFoundError: no list of classes, or no photos.
        ValueError: files without the form of YOLO.
    """
    names, entries, root = _configuration(source)
    index = source.photos()
    texts = _texts_by_name(source)
    photos = []
    for split, path in _photos(entries, root, index=index):
        labels = texts[path.stem] if path.stem in texts else _labels_path(path)
        name = index.name(path)
        try:
            regions = _regions(labels, path, names=names, source=source)
        except (ValueError, OSError) as error:
            source.findings.fault(str(error))
            continue
        if not regions:
            source.findings.note("photos have no region: background only", name)
        photos.append(Photo(name, path, regions=tuple(regions), split=split))
    _report_orphans(index, source)
    if not photos:
        source.findings.settle()
        raise FileNotFoundError(f"{source.path}: no photo in a folder {_IMAGES}/")
    gaps = sorted(set(range(max(names) + 1)) - names.keys())
    if gaps:
        source.findings.note(
            f"files have gaps in their class numbers (no {gaps[0]}): classes are numbered anew",
            str(source.path),
        )
    classes = tuple(ClassName(names[number]) for number in sorted(names))
    return Annotations(classes, tuple(photos), overlaps=Overlaps.SMALLER_ON_TOP)


def _configuration(source: Source) -> tuple[dict[int, str], dict[str, Any], pathlib.Path]:
    """Returns {number: name}, {split: folder or list in data.yaml} and the folder of data.yaml."""
    if source.path.is_file():
        files = [source.path]
    else:
        files = [p for p in some_files(source.path, "*.y*ml") if mentions(p, "names:")]
    if len(files) > 1:
        raise ValueError(
            f"{source.path}: {len(files)} files name classes, {files[0].name} and "
            f"{files[1].name}; give one of them as --input"
        )
    if not files:
        return _names_of_list(source), {}, source.folder
    document = _read_yaml(files[0])
    names = document.get("names") if isinstance(document, dict) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(map(_is_class_number, names)):
        raise ValueError(f"{files[0]}: expected names, a list or {{number: name}}")
    if wrong := [name for name in names.values() if not isinstance(name, str | int | float)]:
        kind = type(wrong[0]).__name__  # its text may be endless: YAML can repeat a list in itself
        raise ValueError(f"{files[0]}: expected text as a name of a class, got a {kind}")
    entries = {key: document[key] for key in _SPLIT_KEYS if document.get(key)}
    for key, value in entries.items():
        if not all(isinstance(one, str) for one in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{files[0]}: expected a path, or a list of paths, as {key}")
    return {number: str(name) for number, name in names.items()}, entries, files[0].parent


def _read_yaml(path: pathlib.Path) -> Any:
    text = bounded_file.read_text(path, limit=LARGEST_YAML_BYTES)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, *bounded_file.PARSING_ERRORS) as error:
        raise ValueError(f"{path}: not a YAML file ({error})") from error


def _is_class_number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_NUMBERS


def _names_of_list(source: Source) -> dict[int, str]:
    if source.classes is not None:
        return dict(enumerate(source.classes.names))
    for name in NAME_LISTS:
        for path in some_files(source.folder, name, limit=1):
            return dict(enumerate(parse_label_lines(read_lines(path))))
    raise FileNotFoundError(
        f"{source.path}: neither data.yaml nor {' nor '.join(NAME_LISTS)} names the classes; give "
        "--classes=FILE, one name per line"
    )


def _photos(
    entries: dict[str, Any], root: pathlib.Path, *, index: PhotoIndex
) -> list[tuple[str, pathlib.Path]]:
    """(split, path) of every photo: of the folders and lists of data.yaml, else of all folders."""
    found: dict[pathlib.Path, str] = {}
    for key, value in entries.items():
        for entry in value if isinstance(value, list) else [value]:
            for path in _entry(entry, root, index=index):
                found.setdefault(path, _SPLIT_KEYS[key])
    if not found:
        inside = [path for path in index.paths if _IMAGES in path.parts]
        for path in inside or index.paths:
            relative = path.relative_to(index.folder)
            found[path] = next(filter(None, map(split_of, relative.parts[:-1])), "")
    return [(found[path], path) for path in sorted(found)]


def _entry(entry: str, root: pathlib.Path, *, index: PhotoIndex) -> list[pathlib.Path]:
    """Photos of one entry of data.yaml, whose path is often that of another computer."""
    parts = [part for part in re.split(r"[\\/]", entry) if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for base in (root, index.folder):
            path = base.joinpath(*parts[start:])
            if path.is_dir():
                below = path.resolve()
                return [one for one in index.paths if below in one.resolve().parents]
            if path.is_file() and path.suffix == ".txt":
                lines = [line.strip() for line in read_lines(path) if line.strip()]
                return [index.find(line, place=str(path)) for line in lines]
    raise FileNotFoundError(f"{root}: its YAML file names {entry!r}, which is not below {root}")


def _texts_by_name(source: Source) -> dict[str, pathlib.Path]:
    """{name: text file}, if the photos lie elsewhere and no path leads to their text files."""
    if source.images is None:
        return {}
    found: dict[str, pathlib.Path] = {}
    for path in files_below(source.folder, (".txt",)):
        if path.name in NAME_LISTS:
            continue
        if path.stem in found:
            raise ValueError(
                f"{path} and {found[path.stem]} have the same name; leave out --images, and put "
                "the photos where YOLO has them"
            )
        found[path.stem] = path
    return found


def _labels_path(photo: pathlib.Path) -> pathlib.Path:
    """Path of the text file: the last `images` becomes `labels`; else beside the photo."""
    parts = list(photo.parts)
    for position in range(len(parts) - 2, -1, -1):
        if parts[position] == _IMAGES:
            parts[position] = _LABELS
            break
    return pathlib.Path(*parts).with_suffix(".txt")


def _report_orphans(index: PhotoIndex, source: Source) -> None:
    known = {_labels_path(path) for path in index.paths}
    for path in files_below(index.folder, (".txt",)):
        inside = _LABELS in path.relative_to(index.folder).parts[:-1]
        if inside and path not in known and path.name not in NAME_LISTS:
            source.findings.fault(f"{path}: names no photo; expected an image named {path.stem}")


def _regions(
    path: pathlib.Path, photo: pathlib.Path, *, names: dict[int, str], source: Source
) -> list[Region]:
    if not path.is_file():
        return []
    header = read_header(photo, str(photo))
    stored = source.orientation is Orientation.STORED
    size = header.size if stored else header.upright_size
    regions = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}:{number}"
        try:
            values = np.array(line.split(), np.float64)
        except ValueError:
            raise ValueError(
                f"{place}: expected numbers `class x y x y ...`, got {line[:60]!r}"
            ) from None
        name = names.get(int(values[0])) if abs(values[0]) < _MOST_NUMBERS else None
        if name is None or values[0] != int(values[0]):
            raise ValueError(f"{place}: class {values[0]:g} is unknown; known: 0 to {max(names)}")
        shape = _shape(values[1:], size, place=place, source=source)
        if shape is not None:
            regions.append(Region(name, shape, place=place))
    return regions


def _shape(
    values: np.ndarray, size: tuple[int, int], *, place: str, source: Source
) -> Polygon | None:
    scale = np.array(size[::-1], np.float64)
    if len(values) == 4:
        if not source.fill_boxes:
            source.findings.note(_NO_OUTLINE, place)
            return None
        center, extent = values[:2] * scale, values[2:] * scale
        (left, top), (right, bottom) = center - extent / 2, center + extent / 2
        return box_polygon(left, top, right=right, bottom=bottom)
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"{place}: expected pairs x y of at least 3 points, got {len(values)}")
    if np.abs(values).max() > 2:
        raise ValueError(
            f"{place}: coordinates up to {np.abs(values).max():g}; expected 0 to 1, divided by "
            "width and height"
        )
    return polygon_of([values.reshape(-1, 2) * scale], source, place=place)

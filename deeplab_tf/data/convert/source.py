"""What a reader of a format is given, and the checks of file content that all of them need."""

import codecs
import csv
import dataclasses
import pathlib
from typing import Any, TypeVar

import numpy as np

from deeplab_tf import bounded_file
from deeplab_tf.data.convert.photos import Orientation, PhotoIndex
from deeplab_tf.data.convert.regions import Findings, Polygon, Vertices
from deeplab_tf.data.dataset import read_lines
from deeplab_tf.data.labels import LabelSet

LARGEST_JSON_BYTES = 2_000_000_000
"""COCO's own annotations of 118,000 photos have 470 MB."""
LARGEST_PHOTO_JSON_BYTES = 512_000_000
"""Of a file that describes one photo, and may hold it."""
_Kind = TypeVar("_Kind")


@dataclasses.dataclass(frozen=True)
class Source:
    """Where labels are, and how to read them.

    Attributes:
        path: folder or file of the labels.
        findings: gets faults and notes.
        images: folder of the photos, None if they are below `path`.
        masks: folder of mask pictures, None if they are below `path`.
        classes: classes that the user names, or None.
        snap_colors: whether colours without a class become the nearest that has one.
        fill_boxes: whether a box without an outline is filled.
        vertices: what the coordinates of outlines mean; None: the meaning of the format.
        orientation: which picture was labelled, where a photo has an EXIF orientation.
    """

    path: pathlib.Path
    findings: Findings
    images: pathlib.Path | None = None
    masks: pathlib.Path | None = None
    classes: LabelSet | None = None
    snap_colors: bool = False
    fill_boxes: bool = False
    vertices: Vertices | None = None
    orientation: Orientation = Orientation.AUTO

    @property
    def folder(self) -> pathlib.Path:
        """The folder of the labels."""
        return self.path if self.path.is_dir() else self.path.parent

    def photos(self) -> PhotoIndex:
        """Lists the photos: below `images`, else below the folder or, beside it, its parent."""
        if self.images is not None:
            return PhotoIndex(self.images)
        index = PhotoIndex(self.folder)
        if not index.paths and self.path.is_file():
            return PhotoIndex(self.folder.parent)
        return index


def read_json(path: pathlib.Path, *, limit: int = LARGEST_JSON_BYTES) -> Any:
    """Reads a JSON file.

    Args:
        path: of the file.
        limit: most bytes.

    Raises:
        ValueError: not JSON, or too large.
    """
    try:
        with path.open("rb") as stream:
            beginning = stream.read(1024).removeprefix(codecs.BOM_UTF8).strip()
        if beginning[:1] not in (b"{", b"["):  # before gigabytes of something else are read
            raise ValueError(f"it begins with {beginning[:8]!r}")
        return bounded_file.read_json(path, limit=limit)
    except ValueError as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise ValueError(f"{path}: not a JSON file ({reason})") from error


def read_table(path: pathlib.Path) -> list[list[str]]:
    """Reads the rows of a CSV file.

    Args:
        path: of the file.

    Raises:
        ValueError: not UTF-8 text, too large, or not CSV.
    """
    try:
        return list(csv.reader(read_lines(path)))
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error


def member(container: Any, key: str, *, kind: type[_Kind], place: str) -> _Kind:
    """Returns a member of a JSON object.

    Args:
        container: the object.
        key: of the member.
        kind: its type; a float without a fraction is also an int.
        place: of the object, for the message.

    Raises:
        ValueError: no object, no such member, or one of another type.
    """
    value = container.get(key) if isinstance(container, dict) else None
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        got = "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"
        raise ValueError(f"{place}: expected {kind.__name__} {key!r}, got {got}")
    return value


def as_points(values: Any, place: str) -> np.ndarray:
    """Returns coordinates as float64 [points, 2], (x, y).

    Args:
        values: [[x, y], ...] or [x, y, x, y, ...].
        place: for the message.

    Raises:
        ValueError: not such a list.
    """
    try:
        points = np.array(values, np.float64)
        if points.size % 2 or points.ndim > 2 or (points.ndim == 2 and points.shape[1] != 2):
            raise ValueError(f"shape {list(points.shape)}")
        return points.reshape(-1, 2)
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{place}: expected coordinates x, y, x, y, ... ({error})") from None


def as_pixels(values: Any, place: str) -> tuple[int, int]:
    """Returns one pair of whole numbers, such as the place or the size of a bitmap.

    Args:
        values: [a, b].
        place: for the message.

    Raises:
        ValueError: not such a pair, or beyond 32 bits.
    """
    points = as_points(values, place)
    if points.shape != (1, 2) or not (np.abs(points) < 2**31).all():
        raise ValueError(f"{place}: expected two whole numbers, got {str(values)[:60]}")
    return int(points[0, 0]), int(points[0, 1])


def polygon_of(
    outlines: list[np.ndarray],
    source: Source,
    *,
    place: str,
    holes: list[np.ndarray] | None = None,
    vertices: Vertices = Vertices.CORNERS,
) -> Polygon | None:
    """Returns the polygon of some outlines, None if none of them has three points.

    Args:
        outlines: float64 [points, 2] each.
        source: says what coordinates mean, if the user does; gets a note about short outlines.
        place: for the note.
        holes: in the same form.
        vertices: what the coordinates mean in this format.
    """
    kept = [one for one in outlines if len(one) >= 3]
    if len(kept) < len(outlines):
        source.findings.note("outlines have fewer than 3 points: left out", place)
    if not kept:
        return None
    inner = tuple(one for one in holes or [] if len(one) >= 3)
    return Polygon(tuple(kept), inner, vertices=source.vertices or vertices)


def box_polygon(left: float, top: float, *, right: float, bottom: float) -> Polygon:
    """Returns a box as a polygon."""
    return Polygon((np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float),))


def hex_color(text: Any) -> tuple[int, int, int] | None:
    """Returns the colour of "#rrggbb", None for any other value."""
    digits = str(text).strip().removeprefix("#")
    try:
        code = int(digits, 16) if len(digits) == 6 else -1
    except ValueError:
        return None
    return (code >> 16, code >> 8 & 255, code & 255) if code >= 0 else None


def some_files(folder: pathlib.Path, pattern: str, *, limit: int = 5) -> list[pathlib.Path]:
    """Returns the first files of a pattern in a folder and up to two levels below it.

    Args:
        folder: where to look.
        pattern: of the name, as in a shell.
        limit: how many.
    """
    found: list[pathlib.Path] = []
    for prefix in ("", "*/", "*/*/"):
        for path in folder.glob(prefix + pattern):
            if path.is_file() and not path.name.startswith("."):
                found.append(path)
                if len(found) == limit:
                    return found
    return found


def mentions(path: pathlib.Path, *needles: str) -> bool:
    """Returns whether all needles occur in the first 64 KiB or the last 64 KiB of a text file."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        text = stream.read(1 << 16)
        if size > 1 << 16:
            stream.seek(max(size - (1 << 16), 1 << 16))
            text += stream.read(1 << 16)
    return all(needle.encode() in text for needle in needles)

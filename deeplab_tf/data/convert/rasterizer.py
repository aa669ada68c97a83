"""Regions and mask pictures -> label map.

Outlines are filled by pycocotools (COCO's own rasterizer) where coordinates are positions, by
Pillow where they are pixel indices. Rules for holes and overlaps: `Polygon` and `Overlaps` in
`regions`.
"""

import collections.abc
import dataclasses
import math
import warnings
from typing import Any

import numpy as np
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from deeplab_tf.data.convert.photos import open_picture, read_pixels
from deeplab_tf.data.convert.regions import (
    Bitmap,
    Ellipse,
    MaskFile,
    Overlaps,
    Polygon,
    Region,
    RunLengths,
    Shape,
    Vertices,
)
from deeplab_tf.data.images import read_mask
from deeplab_tf.data.labels import IGNORE_LABEL

FAR = 1.0
"""How far outside a coordinate may be, in widths or heights of the photo; beyond it is no slip."""
LONGEST_OUTLINE = 1e7
"""Pixels. One that goes around every pixel of a row in a large photo has 1e5."""
_NEAR_EDGE = 1.5
"""Pixels by which an outline may leave the photo without a word: rounding of programs."""
_ELLIPSE_POINTS = 360
_WHOLE = 0.01
"""Pixels from a whole number; YOLO files with 5 digits round by up to 0.005 per 1000 pixels."""


@dataclasses.dataclass
class Outcome:
    """What was seen while regions were drawn.

    Attributes:
        overlapping: pixels that regions of different classes covered.
        snapped: pixels of masks that got the nearest code.
        vanished: regions that cover no pixel centre.
    """

    overlapping: int = 0
    snapped: int = 0
    vanished: int = 0


def bounds(shape: Shape) -> tuple[float, float, float, float]:
    """Returns (left, top, right, bottom) of a shape, in pixels.

    Raises:
        ValueError: a bitmap that cannot be read.
    """
    if isinstance(shape, Polygon):
        points = np.concatenate(shape.outlines + shape.holes)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        return left, top, right, bottom
    if isinstance(shape, Ellipse):
        return bounds(_as_polygon(shape))
    if isinstance(shape, RunLengths):
        height, width = shape.size
        return shape.left, shape.top, shape.left + width, shape.top + height
    with open_picture(shape.encoded, "its bitmap") as picture:
        width, height = picture.size
    return shape.left, shape.top, shape.left + width, shape.top + height


def place_fault(shape: Shape, size: tuple[int, int]) -> str:
    """Says what is wrong with the place of a shape.

    Args:
        shape: the shape.
        size: (height, width) of the picture.

    Returns:
        "" if the shape touches the picture and its coordinates are possible, else the fault.
    """
    try:
        left, top, right, bottom = bounds(shape)
    except ValueError as error:
        return str(error)
    if not all(map(math.isfinite, (left, top, right, bottom))):
        return "has coordinates that are no numbers"
    height, width = size
    where = f"x {left:g} to {right:g}, y {top:g} to {bottom:g}"
    outside = f"({where}; the picture is {width}x{height})"
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        return f"lies outside the picture {outside}"
    far = left < -FAR * width or right > (1 + FAR) * width
    if far or top < -FAR * height or bottom > (1 + FAR) * height:
        return f"reaches far outside the picture {outside}"
    if isinstance(shape, Polygon) and (length := _length(shape)) > LONGEST_OUTLINE:
        return f"has outlines of {length:.3g} pixels, expected at most {LONGEST_OUTLINE:.3g}"
    return ""


def _length(polygon: Polygon) -> float:
    """Returns the pixels along all outlines: the rasterizer's memory and time are of that order."""
    rings = (np.diff(ring, axis=0, append=ring[:1]) for ring in polygon.outlines + polygon.holes)
    return sum(float(np.abs(steps).max(1).sum()) for steps in rings)


def is_on_whole_pixels(shape: Shape) -> bool:
    """Returns whether a polygon is said to go around pixels and has whole numbers only.

    Hand-drawn outlines do not; those that OpenCV finds in a mask do, and go through pixels.
    """
    if not isinstance(shape, Polygon) or shape.vertices is Vertices.PIXELS:
        return False
    points = np.concatenate(shape.outlines)
    return bool(np.abs(points - points.round()).max() < _WHOLE)


def leaves_picture(shape: Shape, size: tuple[int, int]) -> bool:
    """Returns whether the shape is cut off at the edge of the picture, (height, width)."""
    left, top, right, bottom = bounds(shape)
    height, width = size
    low = min(left, top) < -_NEAR_EDGE
    return low or right > width + _NEAR_EDGE or bottom > height + _NEAR_EDGE


@dataclasses.dataclass(frozen=True)
class Area:
    """Pixels of a shape, cut to a box around it, so that many of them fit in memory.

    Attributes:
        top: row of the box in the picture.
        left: column of the box in the picture.
        inside: bool [height, width] of the box.
    """

    top: int
    left: int
    inside: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """The box in the picture."""
        height, width = self.inside.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def area_of(shape: Shape, size: tuple[int, int]) -> Area:
    """Returns the pixels of a shape.

    Args:
        shape: its coordinates are within reach (`place_fault`).
        size: (height, width) of the picture.

    Raises:
        ValueError: run lengths or a bitmap that are damaged or larger than the picture.
    """
    if isinstance(shape, Polygon):
        return _area_of_polygon(shape, size)
    if isinstance(shape, Ellipse):
        return _area_of_polygon(_as_polygon(shape), size)
    part = _decode_runs(shape, size) if isinstance(shape, RunLengths) else _decode(shape, size)
    rows, columns = (
        slice(max(-start, 0), max(min(length, limit - start), 0))
        for start, length, limit in zip((shape.top, shape.left), part.shape, size, strict=True)
    )
    return Area(max(shape.top, 0), max(shape.left, 0), part[rows, columns])


def _area_of_polygon(polygon: Polygon, size: tuple[int, int]) -> Area:
    left, top, right, bottom = bounds(polygon)
    start = [max(math.floor(value), 0) for value in (top, left)]
    stop = [
        min(math.ceil(value) + 1, limit) for value, limit in zip((bottom, right), size, strict=True)
    ]
    height, width = (max(b - a, 0) for a, b in zip(start, stop, strict=True))
    inside = np.zeros((height, width), bool)
    if inside.size:
        offset = np.array(start[::-1], float)
        moved = dataclasses.replace(
            polygon,
            outlines=tuple(ring - offset for ring in polygon.outlines),
            holes=tuple(ring - offset for ring in polygon.holes),
        )
        inside = _fill_polygon(moved, (height, width))
    return Area(start[0], start[1], inside)


def _fill_polygon(polygon: Polygon, size: tuple[int, int]) -> np.ndarray:
    if polygon.vertices is Vertices.PIXELS:
        picture = Image.new("L", size[::-1])
        draw = ImageDraw.Draw(picture)
        # Rounded: YOLO's 5 digits make 265.9993 of 266, and the row would be lost.
        for points in polygon.outlines:
            draw.polygon([(x, y) for x, y in points.round().tolist()], fill=1, outline=1)
        for points in polygon.holes:
            draw.polygon([(x, y) for x, y in points.round().tolist()], fill=0, outline=0)
        return np.asarray(picture) > 0
    return _fill_corners(polygon.outlines, size) & ~_fill_corners(polygon.holes, size)


def _fill_corners(rings: tuple[np.ndarray, ...], size: tuple[int, int]) -> np.ndarray:
    if not rings:
        return np.zeros(size, bool)
    runs = coco_mask.frPyObjects([ring.ravel().tolist() for ring in rings], *size)
    return _decode_code(coco_mask.merge(runs)) > 0


def _decode_code(code: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # pycocotools' own, about NumPy 2
        return np.asarray(coco_mask.decode(code))


def _as_polygon(ellipse: Ellipse) -> Polygon:
    angles = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    points = np.stack([np.cos(angles), np.sin(angles)], 1) * ellipse.radii
    turn = math.radians(ellipse.degrees)
    rotation = np.array(
        [[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]], float
    )
    return Polygon((points @ rotation + ellipse.center,))


def _decode_runs(runs: RunLengths, size: tuple[int, int]) -> np.ndarray:
    height, width = runs.size
    if height > size[0] or width > size[1] or min(height, width) < 1:
        raise ValueError(
            f"its run lengths fill {width}x{height} pixels, the picture is {size[1]}x{size[0]}"
        )
    stored = [height, width] if runs.by_columns else [width, height]
    counts = _uncompressed(runs.counts) if isinstance(runs.counts, str) else list(runs.counts)
    # pycocotools trusts the sum: of too few pixels, the rest would be whatever memory holds.
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise ValueError(
            f"its run lengths do not fill {width}x{height} pixels (they sum up to {sum(counts)})"
        )
    code = coco_mask.frPyObjects({"size": stored, "counts": counts}, *stored)
    inside = _decode_code(code) > 0
    return inside if runs.by_columns else inside.T


def _uncompressed(text: str) -> list[int]:
    """Returns the runs of COCO's compressed text.

    Each number has 5 bits per character, the lowest first; bit 5 says that more follow. From the
    fourth run on it is the difference to the run before the last (maskApi.c, rleFrString).

    Raises:
        ValueError: a character that is not used, or an end inside a number.
    """
    counts: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        if not 0 <= code < 64 or bits > 30:
            raise ValueError(f"its run lengths hold {character!r}, which is no code of COCO's")
        value |= (code & 31) << bits
        bits += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << bits
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = bits = 0
    if bits:
        raise ValueError("its run lengths end inside a number")
    return counts


def _decode(bitmap: Bitmap, size: tuple[int, int]) -> np.ndarray:
    with open_picture(bitmap.encoded, "its bitmap") as picture:
        if picture.height > size[0] + 1 or picture.width > size[1] + 1:
            raise ValueError(
                f"its bitmap has {picture.width}x{picture.height} pixels, the picture "
                f"{size[1]}x{size[0]}"
            )
        pixels = read_pixels(picture, "its bitmap")
    if pixels.ndim == 3:  # RGBA has the shape in alpha, RGB in its colours
        has_alpha = pixels.shape[2] in (2, 4)
        pixels = pixels[:, :, -1] if has_alpha else np.asarray(pixels.any(axis=2))
    return pixels > 0


def draw_regions(
    regions: collections.abc.Sequence[Region],
    label: np.ndarray,
    *,
    ids: dict[str, int],
    overlaps: Overlaps,
    outcome: Outcome,
) -> list[str]:
    """Draws regions into a label map, in place.

    Args:
        regions: in the order of their file.
        label: uint8 [height, width], with what lies under them.
        ids: {class name: id}.
        overlaps: the rule.
        outcome: its counts are increased.

    Returns:
        One line per region that cannot be decoded; such a region is not drawn.
    """
    faults: list[str] = []
    areas: list[tuple[int, Area]] = []
    for region in regions:
        try:
            area = area_of(region.shape, label.shape)
        except ValueError as error:
            faults.append(f"{region.place}: {error}")
            continue
        outcome.vanished += not area.inside.any()
        areas.append((ids[region.class_name], area))
    if overlaps is Overlaps.SMALLER_ON_TOP:
        areas.sort(key=lambda one: -int(one[1].inside.sum()))  # equal ones keep their order
    drawn = np.zeros(label.shape, bool)
    mixed = np.zeros(label.shape, bool)
    for number, area in areas:
        there, under = area.window, label[area.window]
        mixed[there] |= area.inside & drawn[there] & (under != number)
        drawn[there] |= area.inside
        under[area.inside] = number
    outcome.overlapping += int(mixed.sum())
    if overlaps is Overlaps.IGNORED:
        label[mixed] = IGNORE_LABEL
    return faults


def read_codes(mask: MaskFile) -> np.ndarray:
    """Reads the codes of a mask picture.

    Returns:
        int32 [height, width]; see `MaskFile.by_color`.

    Raises:
        ValueError: not a readable picture, or colours where stored values are expected.
    """
    if not mask.by_color:
        return read_mask(mask.path).astype(np.int32)
    with open_picture(mask.path, str(mask.path)) as picture:
        pixels = read_pixels(picture, str(mask.path), mode="RGB").astype(np.int32)
    return (pixels[:, :, 0] << 16) | (pixels[:, :, 1] << 8) | pixels[:, :, 2]


def color_text(code: int) -> str:
    """Formats the code of a colour as "red green blue"."""
    return f"{code >> 16} {code >> 8 & 255} {code & 255}"


def draw_mask(mask: MaskFile, label: np.ndarray, *, ids: dict[str, int], outcome: Outcome) -> None:
    """Draws a mask picture into a label map, in place.

    Args:
        mask: the mask.
        label: uint8 [height, width], with what lies under it.
        ids: {class name: id}.
        outcome: its counts are increased.

    Raises:
        ValueError: not a readable picture, one of another size, or a code without a class.
    """
    codes = read_codes(mask)
    if codes.shape != label.shape:
        raise ValueError(
            f"{mask.path}: the mask has {codes.shape[1]}x{codes.shape[0]} pixels, its photo "
            f"{label.shape[1]}x{label.shape[0]}; resize the mask with nearest neighbour"
        )
    found, inverse = np.unique(codes, return_inverse=True)
    numbers = np.zeros(len(found), np.int32)
    unknown = []
    for index, code in enumerate(found.tolist()):
        if code not in mask.classes:
            unknown.append((index, code))
            code = _nearest(code, mask)
        name = mask.classes[code]
        numbers[index] = -1 if name is None else ids[name]
    counts = np.bincount(inverse.ravel(), minlength=len(found))
    wrong = sum(int(counts[index]) for index, _ in unknown)
    if unknown and not mask.snap:
        code = unknown[0][1]
        text = f"colour {color_text(code)}" if mask.by_color else f"value {code}"
        raise ValueError(
            f"{mask.path}: {wrong} pixels in {len(unknown)} codes without a class, for example "
            f"{text}; name them in --classes, or map each to the nearest one with --snap_colors"
        )
    outcome.snapped += wrong
    drawn = numbers[inverse].reshape(label.shape)
    label[drawn >= 0] = drawn[drawn >= 0]


def _nearest(code: int, mask: MaskFile) -> int:
    known = np.array(list(mask.classes), np.int64)
    if not mask.by_color:
        return int(known[np.abs(known - code).argmin()])
    shifts = np.array([[16], [8], [0]])
    differences = (known >> shifts & 255) - (code >> shifts & 255)  # [3, colours]
    return int(known[(differences**2).sum(0).argmin()])

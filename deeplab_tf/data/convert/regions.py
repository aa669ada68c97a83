"""What every label format is read into: photos, and in each the labelled regions or a mask file.

A reader of a format makes these; one rasterizer and one writer take them.
"""

import collections.abc
import dataclasses
import enum
import pathlib
import unicodedata

import numpy as np

BACKGROUND = "background"
"""Class of pixels that no region covers."""
BACKGROUND_NAMES = (BACKGROUND, "_background_")
"""Names that formats give to that class (the second is LabelMe's), in lower case."""
LONGEST_NAME = 256
IGNORED_NAME = "__ignore__"
"""LabelMe's name for pixels that are ignored."""


class Vertices(enum.Enum):
    """What the coordinates of an outline mean; the difference is half a pixel all around.

    Attributes:
        CORNERS: positions in the plane in which pixel (x, y) covers [x, x + 1) x [y, y + 1), as in
            COCO, CVAT, LabelMe and YOLO. A pixel belongs to the region that covers its centre.
        PIXELS: indices of pixels, as OpenCV's contours and Supervisely have them. The pixels of
            the outline belong to the region.
    """

    CORNERS = "corners"
    PIXELS = "pixels"


class Overlaps(enum.Enum):
    """Which region a pixel gets that several of them cover.

    Attributes:
        FILE_ORDER: the last one of the file (CVAT: of the highest z_order first).
        SMALLER_ON_TOP: the one with the fewest pixels; of equal ones, the last.
        IGNORED: none: where classes differ, the pixel is ignored (255).
    """

    FILE_ORDER = "file_order"
    SMALLER_ON_TOP = "smaller_on_top"
    IGNORED = "ignored"


@dataclasses.dataclass(frozen=True)
class Polygon:
    """An area inside outlines and outside of holes.

    Attributes:
        outlines: float64 [points, 2] each, (x, y) in pixels; the area is what any of them encloses.
        holes: in the same form; taken out of the union.
        vertices: what the coordinates mean.
    """

    outlines: tuple[np.ndarray, ...]
    holes: tuple[np.ndarray, ...] = ()
    vertices: Vertices = Vertices.CORNERS


@dataclasses.dataclass(frozen=True)
class Ellipse:
    """An ellipse; a circle if both radii are equal.

    Attributes:
        center: (x, y) in pixels.
        radii: (along x, along y) before the rotation.
        degrees: rotation, clockwise as the picture is seen.
    """

    center: tuple[float, float]
    radii: tuple[float, float]
    degrees: float = 0.0


@dataclasses.dataclass(frozen=True)
class RunLengths:
    """Pixels as alternating runs of outside and inside, outside first.

    Attributes:
        counts: lengths of the runs, or COCO's compressed text of them.
        size: (height, width) of the area that the runs fill.
        left: column of its left edge in the photo.
        top: row of its top edge in the photo.
        by_columns: True if the runs go down the columns (COCO), False if along the rows (CVAT).
    """

    counts: tuple[int, ...] | str
    size: tuple[int, int]
    left: int = 0
    top: int = 0
    by_columns: bool = True


@dataclasses.dataclass(frozen=True)
class Bitmap:
    """Pixels as an encoded picture: what is not 0 belongs to the region.

    Attributes:
        encoded: content of a PNG file.
        left: column of its left edge in the photo.
        top: row of its top edge in the photo.
    """

    encoded: bytes
    left: int
    top: int


Shape = Polygon | Ellipse | RunLengths | Bitmap


@dataclasses.dataclass(frozen=True)
class Region:
    """One labelled area of a photo.

    Attributes:
        class_name: of its class.
        shape: the area.
        place: where it is written, for messages: file, and number or name of the annotation.
    """

    class_name: str
    shape: Shape
    place: str


@dataclasses.dataclass(frozen=True)
class MaskFile:
    """A mask that is a picture.

    Attributes:
        path: of the file.
        classes: {code of a pixel: name of its class, or None if the mask does not label it}.
        by_color: whether codes are colours (red * 65536 + green * 256 + blue) or stored values.
        snap: whether a code that is not in `classes` becomes the nearest that is.
    """

    path: pathlib.Path
    classes: dict[int, str | None]
    by_color: bool
    snap: bool = False


@dataclasses.dataclass(frozen=True)
class Photo:
    """A photo and its labels.

    Attributes:
        name: path below the folder of photos, for messages and for the name of the copy.
        path: of the file; of the file that holds it, if `read` is given.
        size: (height, width) of the picture that was labelled, None if the format does not say.
        regions: in the order of the file.
        masks: mask pictures; later ones lie over earlier ones.
        split: train, val, test or "" if the format does not say.
        read: returns the content of the picture, if it is no file of its own.
    """

    name: str
    path: pathlib.Path
    size: tuple[int, int] | None = None
    regions: tuple[Region, ...] = ()
    masks: tuple[MaskFile, ...] = ()
    split: str = ""
    read: collections.abc.Callable[[], bytes] | None = None

    def source(self) -> pathlib.Path | bytes:
        """Returns the path of the picture file, or its content if it is no file of its own."""
        return self.read() if self.read else self.path


@dataclasses.dataclass(frozen=True)
class ClassName:
    """A class as a format names it.

    Attributes:
        name: of the class.
        color: (red, green, blue), 0..255, or None.
    """

    name: str
    color: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        one_line = bool(self.name.strip()) and len(self.name.splitlines()) == 1
        controls = any(unicodedata.category(one) in ("Cc", "Cs") for one in self.name)
        if not one_line or controls or len(self.name) > LONGEST_NAME:
            raise ValueError(
                f"class {self.name[:40]!r}: expected a name of 1 to {LONGEST_NAME} characters in "
                "one line; rename it"
            )


@dataclasses.dataclass(frozen=True)
class Annotations:
    """Everything that a format says.

    Attributes:
        classes: in the order in which they get their ids.
        photos: the photos.
        overlaps: the rule of the format, or the usual one where it has none.
        unlabelled_means_background: False if masks label every pixel, so that no class is added.
    """

    classes: tuple[ClassName, ...]
    photos: tuple[Photo, ...]
    overlaps: Overlaps = Overlaps.FILE_ORDER
    unlabelled_means_background: bool = True


class Findings:
    """Collects what is wrong (faults) and what is left out for a stated reason (notes).

    Attributes:
        faults: one line per fault.
    """

    def __init__(self, skip_faulty: bool = False) -> None:
        """Starts empty.

        Args:
            skip_faulty: whether what is faulty is left out instead of ending the conversion.
        """
        self._skip_faulty = skip_faulty
        self.faults: list[str] = []
        self._notes: dict[str, list[str]] = {}

    def fault(self, text: str) -> None:
        """Adds a fault: a line that names the place, what was expected and what came."""
        self.faults.append(" ".join(text.split()))

    def note(self, reason: str, place: str) -> None:
        """Counts a place where `reason` held."""
        self._notes.setdefault(reason, []).append(place)

    def notes(self) -> list[str]:
        """Returns one line per reason: how often, why, and the first place."""
        return [
            f"{len(places)} {reason} (first: {places[0]})" for reason, places in self._notes.items()
        ]

    def settle(self) -> None:
        """Ends the conversion if there are faults and they may not be left out.

        Raises:
            ValueError: with the first fault, their number and the remedy.
        """
        if self.faults and not self._skip_faulty:
            more = f" (and {len(self.faults) - 1} more faults)" if len(self.faults) > 1 else ""
            raise ValueError(
                f"{self.faults[0]}{more}; correct this, or leave out what is faulty with "
                "--skip_faulty"
            )

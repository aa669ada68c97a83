"""Finds photos below a folder, and says which way up a photo was labelled.

A camera stores the sensor's pixels and an EXIF orientation. A program that annotates shows the
photo upright, or as it is stored; the masks fit what it showed. Trained networks get pixels
without EXIF, so photo and mask are both turned upright here.
"""

import collections
import dataclasses
import enum
import io
import os
import pathlib
import re
import warnings

import numpy as np
from PIL import Image

from deeplab_tf.data.images import DECODING_ERRORS, FORMATS, MAX_PIXELS, stored_orientation
from deeplab_tf.data.readers.folder import IMAGE_ENDINGS

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes a stored picture upright, by its EXIF orientation."""
_SIDEWAYS = (5, 6, 7, 8)
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


class Orientation(enum.Enum):
    """Which picture the labels were drawn on, where a photo has an EXIF orientation.

    Attributes:
        AUTO: the one whose size is the size that the labels name; if both have it, an error.
        UPRIGHT: the picture as viewers show it.
        STORED: the pixels as they are stored.
    """

    AUTO = "auto"
    UPRIGHT = "upright"
    STORED = "stored"


@dataclasses.dataclass(frozen=True)
class Header:
    """What the header of a picture file says.

    Attributes:
        size: (height, width) as stored.
        orientation: EXIF orientation, 1 if there is none.
        suffix: of a file name for this format, such as ".jpg".
    """

    size: tuple[int, int]
    orientation: int
    suffix: str

    @property
    def upright_size(self) -> tuple[int, int]:
        """(height, width) as viewers show it."""
        return self.size[::-1] if self.orientation in _SIDEWAYS else self.size

    @property
    def is_upright(self) -> bool:
        """Whether the stored pixels need no turn."""
        return self.orientation not in _TURNS


def read_header(source: pathlib.Path | bytes, name: str) -> Header:
    """Reads size, orientation and format of a picture.

    Args:
        source: path of the file, or its content.
        name: for the message.

    Raises:
        ValueError: not a picture, or one that is too large.
    """
    with open_picture(source, name) as image:
        size = image.height, image.width
        orientation = 1  # Pillow turns a TIFF while it reads it
        if image.format != "TIFF":
            orientation = stored_orientation(image)
        suffix = {"JPEG": ".jpg", "MPO": ".jpg"}.get(image.format or "", "")
        suffix = suffix or f".{(image.format or '').lower()}"
    return Header(size, orientation, suffix=".tif" if suffix == ".tiff" else suffix)


def open_picture(source: pathlib.Path | bytes, name: str) -> Image.Image:
    """Opens a picture without decoding it.

    Args:
        source: path of the file, or its content.
        name: for the message.

    Raises:
        ValueError: not a picture, or one that is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(
                io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS
            )
        if image.width * image.height > MAX_PIXELS:
            raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{name}: picture larger than {MAX_PIXELS} pixels ({error})") from error
    except DECODING_ERRORS as error:
        raise ValueError(f"{name}: not a readable picture ({error})") from error
    return image


def read_pixels(picture: Image.Image, name: str, *, mode: str = "") -> np.ndarray:
    """Decodes a picture.

    Args:
        picture: of `open_picture`.
        name: for the message.
        mode: Pillow's name of the form that it is converted to; "" for its own.

    Returns:
        its pixels, [height, width] or [height, width, channels].

    Raises:
        ValueError: the file is damaged.
    """
    try:
        if mode:
            picture.info.pop("transparency", None)  # otherwise Pillow warns about the lost alpha
            picture = picture.convert(mode)
        return np.asarray(picture)
    except DECODING_ERRORS as error:
        raise ValueError(f"{name}: not a readable picture ({error})") from error


def labelled_upright(
    header: Header, size: tuple[int, int] | None, *, name: str, choice: Orientation
) -> bool:
    """Says whether the labels of a photo fit its upright picture (else: the stored one).

    Args:
        header: of the photo.
        size: (height, width) that the labels name, None if they name none.
        name: of the photo, for messages.
        choice: what the user says.

    Raises:
        ValueError: the labels fit neither picture, or cannot tell which.
    """
    sizes = {Orientation.UPRIGHT: header.upright_size, Orientation.STORED: header.size}
    chosen = [
        one
        for one in sizes
        if (choice is Orientation.AUTO or one is choice) and size in (None, sizes[one])
    ]
    if not chosen:
        assert size is not None  # None fits
        turned = "" if header.is_upright else f" (EXIF orientation {header.orientation})"
        raise ValueError(
            f"{name}: the labels are for {size[1]}x{size[0]} pixels, the photo has "
            f"{header.size[1]}x{header.size[0]}{turned}; give the photos that were labelled"
        )
    if len(chosen) == 2 and not header.is_upright:
        reason = "the labels name no size" if size is None else "both sizes are equal"
        raise ValueError(
            f"{name}: EXIF orientation {header.orientation}, and {reason}, so nothing says whether "
            "the labels were drawn on the upright or on the stored picture; give "
            "--orientation=upright (most programs) or --orientation=stored"
        )
    return chosen[0] is Orientation.UPRIGHT


def turn(picture: Image.Image, orientation: int) -> Image.Image:
    """Returns the upright picture of a stored one."""
    return picture.transpose(_TURNS[orientation]) if orientation in _TURNS else picture


def turn_label(label: np.ndarray, orientation: int) -> np.ndarray:
    """Returns the label map, uint8 [height, width], that fits the upright picture."""
    return np.asarray(turn(Image.fromarray(label), orientation))


def split_of(text: str) -> str:
    """Returns train, val or test if a name of a file or folder contains such a word, else ""."""
    words = re.findall(r"[a-z]+", text.lower())
    return next((_SPLITS[word] for word in reversed(words) if word in _SPLITS), "")


def files_below(folder: pathlib.Path, endings: tuple[str, ...]) -> list[pathlib.Path]:
    """Returns the files of some endings below a folder, sorted; hidden ones are left out."""
    found = []
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            pathlib.Path(root, name)
            for name in sorted(names)
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return found


class PhotoIndex:
    """Finds a photo by the name that an annotation gives, among those below a folder.

    Annotations name photos by a path on somebody's computer, so only its end is compared, and only
    files below the folder are ever opened.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        """Lists the photos.

        Args:
            folder: where they are.

        Raises:
            FileNotFoundError: no such folder, or no photo below it.
        """
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder; expected the one of the photos")
        self.folder = folder
        self.paths = files_below(folder, IMAGE_ENDINGS)
        self._by_name: dict[str, list[pathlib.Path]] = collections.defaultdict(list)
        for path in self.paths:
            self._by_name[path.name].append(path)

    def name(self, path: pathlib.Path) -> str:
        """Returns the path of a photo below the folder."""
        return path.relative_to(self.folder).as_posix()

    def find(self, name: str, *, place: str, near: str = "") -> pathlib.Path:
        """Returns the photo of a name.

        Args:
            name: as the annotation gives it, with slashes or backslashes between folders.
            place: of the annotation, for messages.
            near: name of a folder that holds the photo, if several have that name.

        Raises:
            FileNotFoundError: no photo has that name.
            ValueError: several photos have it.
        """
        parts = [part for part in re.split(r"[\\/]", name) if part not in ("", ".", "..")]
        found = self._by_name.get(parts[-1], []) if parts else []
        for length in range(2, len(parts) + 1):
            if len(found) < 2:
                break
            ending = tuple(parts[-length:])
            found = [path for path in found if path.parts[-length:] == ending] or found
        if len(found) > 1 and near:
            found = [p for p in found if near in p.relative_to(self.folder).parts[:-1]] or found
        if not found:
            raise FileNotFoundError(
                f"{place}: names the photo {name!r}, and {self.folder} holds none of that name; "
                "put it there, or give --images"
            )
        if len(found) > 1:
            raise ValueError(
                f"{place}: names the photo {name!r}, and {len(found)} have that name: "
                f"{self.name(found[0])}, {self.name(found[1])}; give the folder of one of them as "
                "--images"
            )
        return found[0]

"""Reads images and masks with Pillow, with one clear error for each way to fail.

`tf.io.decode_png` has no protection against decompression bombs (a 389 KB PNG took 2.7 GB) and
does not name the file in its errors. Pillow has both.
"""

import pathlib
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

MAX_PIXELS = 89_478_485
"""Pillow's own warning level (a 256 MiB RGB image); larger images are rejected as bombs."""

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF", "PPM", "TGA", "JPEG2000")
"""Those of photos and masks. Pillow has forty more; one of them, EPS, starts another program."""


DECODING_ERRORS = (
    *(OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, struct.error, zlib.error, NotImplementedError, RecursionError),
    Image.DecompressionBombError,
)
"""What Pillow raises for damaged files: of its own, and of what it computes with their numbers."""


class ColorMaskError(ValueError):
    """A mask stores colours where class ids are expected."""


_STORED_STEP = {"L;2": 85, "L;4": 17}
"""Pillow scales gray of 2 and 4 bits to 0..255; difference between two neighbouring values."""


def _open(path: pathlib.Path) -> tuple[Image.Image, str]:
    """Returns the decoded image and Pillow's name for the pixel format of the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such image; check the list and --data_dir")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
                stored = image.tile[0][3] if image.tile else image.mode
                image.load()
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"{path}: image larger than {MAX_PIXELS} pixels ({error}); "
            "reduce its size, or remove it"
        ) from error
    except DECODING_ERRORS as error:
        raise ValueError(f"{path}: not a readable image ({error}); replace or remove it") from error
    return image, stored if isinstance(stored, str) else image.mode


IMAGE_CHANNELS = {1: "L", 3: "RGB", 4: "RGBA"}
"""Pillow's mode of images with that many channels; the fourth is whatever the file stores there."""


def read_image(path: pathlib.Path, channels: int = 3) -> np.ndarray:
    """Reads an image as gray, as RGB, or with a fourth channel.

    In RGB, grayscale is repeated over three channels, a palette is looked up, an alpha channel is
    dropped, 16-bit values keep their upper 8 bits. EXIF orientation is NOT applied, because
    masks have none: pixels are read as stored.

    Args:
        path: of the file.
        channels: 1 for gray (of colours, 0.299 red + 0.587 green + 0.114 blue), 3 for RGB, 4 for
            RGB with the fourth channel of the file.

    Returns:
        uint8 [height, width, channels].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be decoded, is a decompression bomb, or has no fourth channel.
    """
    image, _ = _open(pathlib.Path(path))
    return _as_array(image, channels, path=pathlib.Path(path))


def read_upright(path: pathlib.Path, channels: int = 3) -> np.ndarray:
    """Reads an image as `read_image` does, turned as its EXIF orientation says.

    For images without a mask: one that belongs to a mask is read as stored.

    Args:
        path: of the file.
        channels: as in `read_image`.

    Returns:
        uint8 [height, width, channels].

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file cannot be decoded, is a decompression bomb, or has no fourth channel.
    """
    image, _ = _open(pathlib.Path(path))
    if stored_orientation(image) != _UPRIGHT:
        image = ImageOps.exif_transpose(image)
    return _as_array(image, channels, path=pathlib.Path(path))


def _as_array(image: Image.Image, channels: int, *, path: pathlib.Path) -> np.ndarray:
    if channels not in IMAGE_CHANNELS:
        raise ValueError(f"{path}: expected images of 1, 3 or 4 channels, got {channels}")
    if channels == 4 and image.mode != "RGBA":
        raise ValueError(
            f"{path}: expected an image of 4 channels, got {len(image.getbands())} "
            f"({image.mode}); store the fourth channel in the photo (RGBA)"
        )
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit gray at 255 instead of scaling it.
        gray = (np.asarray(image, np.uint32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(gray[:, :, None], channels, axis=2)
    if image.mode == "F":
        raise ValueError(f"{path}: a float image has no defined range; store 8-bit RGB")
    image.info.pop("transparency", None)  # otherwise Pillow warns about the lost alpha
    pixels = np.asarray(image.convert(IMAGE_CHANNELS[channels]))
    return pixels[:, :, None] if channels == 1 else pixels


_ORIENTATION_TAG = 0x0112
_UPRIGHT = 1


def exif_orientation(path: pathlib.Path) -> int:
    """Returns the EXIF orientation of an image: 1 is upright, also of one that cannot be read.

    A TIFF is upright: its orientation is applied while it is read.

    Args:
        path: of the image.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.format == "TIFF":
                return _UPRIGHT  # Pillow turns it while it reads it
            return stored_orientation(image)
    except DECODING_ERRORS:
        return _UPRIGHT  # read_image reports the error


def stored_orientation(image: Image.Image) -> int:
    """Returns the EXIF orientation of an open image; upright if its EXIF data are damaged.

    Args:
        image: not yet decoded.
    """
    try:
        value = image.getexif().get(_ORIENTATION_TAG, _UPRIGHT)
    except DECODING_ERRORS:
        return _UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else _UPRIGHT


def orientation_note(path: pathlib.Path) -> str:
    """Returns a warning about the EXIF orientation, which `read_image` does not apply.

    Args:
        path: of the image.

    Returns:
        The warning; "" for an upright or unreadable image.
    """
    value = exif_orientation(path)
    if value == _UPRIGHT:
        return ""
    return (
        f"{path}: EXIF orientation {value}: viewers rotate or mirror this image, but its pixels "
        "are read as stored; store them upright (Pillow: ImageOps.exif_transpose) and remove the "
        "tag, or remove only the tag if the mask fits the stored pixels"
    )


def read_mask(path: pathlib.Path) -> np.ndarray:
    """Reads the integers that a mask stores (palette indices, not colours).

    Gray of 1, 2 or 4 bits gives 0..1, 0..3 or 0..15, not the gray levels that a viewer shows.

    Args:
        path: of the file.

    Returns:
        uint8 or uint16/int32 (16-bit files) [height, width].

    Raises:
        FileNotFoundError: the file does not exist.
        ColorMaskError: the file stores colours instead of class ids.
        ValueError: the file cannot be decoded.
    """
    image, stored = _open(pathlib.Path(path))
    if image.mode not in ("L", "P", "1") and not image.mode.startswith("I"):
        raise ColorMaskError(
            f"{path}: a mask must store one class id per pixel (grayscale or palette), "
            f"got mode {image.mode}; convert its colours to class ids"
        )
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    return (
        np.asarray(image) // _STORED_STEP[stored] if stored in _STORED_STEP else np.asarray(image)
    )

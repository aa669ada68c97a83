"""Photos without labels, as a list that quantization is calibrated on."""

import os
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.images import read_image, read_upright
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.readers.folder import IMAGE_ENDINGS

_Path = str | os.PathLike[str]
Photos = _Path | Sequence[_Path] | Sequence[np.ndarray] | np.ndarray
"""A folder; or paths; or pictures, uint8 [height, width, channels] each."""
_SPLIT = "photos"


class PhotoList(SegmentationDataset):
    """Photos whose labels are not known: every pixel is ignored.

    Args:
        photos: a folder, which is searched with its sub-folders; or paths of photos; or pictures,
            uint8 [height, width, channels] each.
        label_set: classes of the network that takes them.
        channels: of the images that it takes.

    Raises:
        FileNotFoundError: a photo or the folder does not exist.
        ValueError: there are no photos, or a picture is no image of bytes.
    """

    def __init__(
        self,
        photos: Photos,
        label_set: LabelSet,
        *,
        channels: int = 3,
    ) -> None:
        self.name = self.split = _SPLIT
        self.label_set, self.channels = label_set, channels
        self._photos = _photos(photos)
        for photo in self._photos:
            if isinstance(photo, np.ndarray) and (
                photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != channels
            ):
                raise ValueError(
                    f"photos: expected uint8 [height, width, {channels}], got {photo.dtype} "
                    f"{list(photo.shape)}; give pixels of 0 to 255, not normalized"
                )

    def __len__(self) -> int:
        return len(self._photos)

    def sample_name(self, index: int) -> str:
        """Returns the path of the photo, or its number."""
        photo = self._photos[index]
        return str(index) if isinstance(photo, np.ndarray) else photo.name

    def image(self, index: int) -> np.ndarray:
        """Reads a photo, turned as its EXIF orientation says: there is no mask to agree with."""
        photo = self._photos[index]
        return photo if isinstance(photo, np.ndarray) else read_upright(photo, self.channels)

    def label(self, index: int) -> np.ndarray:
        """Returns a label map that is ignored everywhere, of the size of the photo as stored."""
        photo = self._photos[index]
        if isinstance(photo, np.ndarray):
            return np.full(photo.shape[:2], IGNORE_LABEL, np.uint8)
        try:
            with Image.open(photo) as image:  # the size alone; a list has up to 1000 candidates
                width, height = image.size
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            height, width = read_image(photo).shape[:2]  # says what is wrong with the photo
        return np.full((height, width), IGNORE_LABEL, np.uint8)


def _photos(
    given: Photos,
) -> list[pathlib.Path] | list[np.ndarray]:
    if isinstance(given, str | os.PathLike):
        folder = pathlib.Path(given)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder}: no such folder of photos")
        found = [path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_ENDINGS]
        if not found:
            raise ValueError(
                f"{folder}: expected photos ({', '.join(IMAGE_ENDINGS)}), got none; give the "
                "folder that holds them"
            )
        return sorted(found)
    if not len(given):
        raise ValueError("photos: expected at least one, got none")
    if isinstance(given[0], np.ndarray):
        return [np.asarray(photo) for photo in given]
    paths = [pathlib.Path(photo) for photo in given]  # type: ignore[arg-type]
    if missing := [path for path in paths if not path.is_file()]:
        raise FileNotFoundError(f"{missing[0]}: no such photo")
    return paths

"""What --input names: a photo, a folder of photos, a video, a camera."""

import collections
import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np
from absl import logging
from PIL import Image

from deeplab_tf.data.images import DECODING_ERRORS, FORMATS, read_upright
from tflite_tools.segmentation.video import Video, camera_path

PHOTO_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")
)
VIDEO_SUFFIXES = frozenset((".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".3gp"))
CAMERA = "camera"


@dataclasses.dataclass(frozen=True)
class Picture:
    """One photo, or one picture of a video.

    Attributes:
        name: for files and tables.
        image: uint8 [height, width, 3], RGB, upright.
        seconds: of a video, since its start; 0 for a photo.
        fourth: uint8 [height, width], the fourth channel of a photo that is read with it.
    """

    name: str
    image: np.ndarray
    seconds: float = 0.0
    fourth: np.ndarray | None = None


@dataclasses.dataclass
class Source:
    """Pictures to segment.

    Attributes:
        name: of the video, for its files; "" for photos.
        count: how many pictures there are, if that is known.
        photos: files, for photos.
        video: open, for a video or a camera.
        with_fourth: whether photos are read with their fourth channel.
        failures: photos that could not be read, one line each; filled while they are read.
    """

    name: str = ""
    count: int | None = None
    photos: tuple[pathlib.Path, ...] = ()
    video: Video | None = None
    with_fourth: bool = False
    failures: list[str] = dataclasses.field(default_factory=list)

    @property
    def is_video(self) -> bool:
        """Whether the pictures belong to a video."""
        return self.video is not None

    def pictures(self) -> Iterator[Picture]:
        """Yields the pictures in order; a photo of several that cannot be read is counted.

        Raises:
            ValueError: the only photo cannot be read, or the video is damaged.
        """
        if self.video is not None:
            for number, frame in enumerate(self.video.frames()):
                yield Picture(f"frame {number}", frame.image, frame.seconds)
            return
        for path, name in zip(self.photos, _distinct_names(self.photos), strict=True):
            try:
                image = read_upright(path, 4 if self.with_fourth else 3)
            except (ValueError, OSError) as error:
                if len(self.photos) == 1:
                    raise
                logging.error("%s", error)
                self.failures.append(str(error))
                continue
            rest = image[..., 3] if self.with_fourth else None
            yield Picture(name, np.ascontiguousarray(image[..., :3]), fourth=rest)

    def close(self) -> None:
        """Closes the video or the camera."""
        if self.video is not None:
            self.video.close()


def open_source(text: str) -> Source:
    """Opens what --input names. What a file is, is read from its bytes, not from its name.

    Args:
        text: path of a photo, a video or a folder, or "camera", or "camera:NUMBER".

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no photo and no video.
    """
    kind, _, number = text.partition(":")
    path = pathlib.Path(text)
    if kind == CAMERA and not path.exists():
        if number and not number.isdecimal():
            raise ValueError(f"--input: expected camera or camera:NUMBER, got {text!r}")
        return Source(CAMERA, video=Video(camera_path(int(number or 0)), camera=True))
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such photo, folder or video; check --input")
    try:
        with Image.open(path, formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
    except DECODING_ERRORS:
        return _video(path)
    if frames > 1:
        logging.warning("%s: the first of its %d pictures is segmented", path, frames)
    return Source(count=1, photos=(path,))


def _video(path: pathlib.Path) -> Source:
    if path.suffix.lower() in PHOTO_SUFFIXES:
        try:
            video = Video(str(path))
        except (ValueError, OSError):
            read_upright(path)  # says what is wrong with the photo
            raise
        logging.warning("%s: holds a video, though its name is that of a photo", path)
    else:
        try:
            video = Video(str(path))
        except ValueError as error:
            raise ValueError(f"{error}, and not a photo; give a photo, folder or video") from error
    return Source(path.stem, count=video.info.frames, video=video)


def _folder(folder: pathlib.Path) -> Source:
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
    )
    photos = tuple(path for path in files if path.suffix.lower() in PHOTO_SUFFIXES)
    videos = [path for path in files if path.suffix.lower() in VIDEO_SUFFIXES]
    if not photos:
        beside = f"{len(videos)} videos: give one" if videos else "nothing else that can be read"
        raise ValueError(
            f"{folder}: expected photos ({', '.join(sorted(PHOTO_SUFFIXES))}), got none ({beside})"
        )
    others = len(files) - len(photos)
    if others:
        logging.warning(
            "%s: %d files are skipped, not named as photos; %d are videos: give each as --input",
            folder,
            others,
            len(videos),
        )
    return Source(count=len(photos), photos=photos)


def _distinct_names(paths: tuple[pathlib.Path, ...]) -> list[str]:
    """Returns the stem of each file, with its suffix where two files share a stem."""
    stems = collections.Counter(path.stem for path in paths)
    # Two stems differ, and a whole name ends in a suffix that its stem lacks: no two are equal,
    # except where a stem ends in a suffix itself (a.jpg.png beside a.jpg and a.png).
    names = [path.stem if stems[path.stem] == 1 else path.name for path in paths]
    if len(set(names)) < len(names):
        return [path.name for path in paths]
    return names

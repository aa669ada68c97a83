"""Reads and writes videos with PyAV, which holds FFmpeg's libraries.

It is imported where a video is opened, not before: photos need none of it.
"""

import contextlib
import dataclasses
import fractions
import pathlib
import platform
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.data.images import MAX_PIXELS

if TYPE_CHECKING:
    import av.container

_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,m4v,gif"
"""FFmpeg's names of the formats that are read. Others are images, text, or lists of other files
and addresses, which FFmpeg would open."""
_OPTIONS = {"format_whitelist": _CONTAINERS, "protocol_whitelist": "file"}
_CODECS = (("libx264", {"crf": "20", "preset": "veryfast"}), ("mpeg4", {"qscale": "3"}))
"""The first that this FFmpeg has: H.264 plays everywhere."""
REMEDY = "free some space, or give another --output_dir"
_TIME_BASE = fractions.Fraction(1, 90_000)
_CAMERAS = {"Linux": "v4l2", "Darwin": "avfoundation", "Windows": "dshow"}


@dataclasses.dataclass(frozen=True)
class VideoFrame:
    """One picture of a video.

    Attributes:
        image: uint8 [height, width, 3], RGB, upright.
        seconds: since the first frame.
    """

    image: np.ndarray
    seconds: float


@dataclasses.dataclass(frozen=True)
class VideoInfo:
    """What a video says about itself.

    Attributes:
        frames: how many there are, if that is known.
        rate: frames per second on average, if that is known.
    """

    frames: int | None
    rate: float | None


class Video:
    """A video file or a camera.

    Args:
        path: of the file, or of the camera's device.
        camera: whether it is a camera.

    Attributes:
        info: what it says about itself.

    Raises:
        ValueError: it is no video that FFmpeg reads.
        OSError: it cannot be opened.
    """

    def __init__(self, path: str, *, camera: bool = False) -> None:
        import av  # noqa: PLC0415 - see the module's docstring

        # Any level: a decoder's thread asks for Python's lock, while closing waits for the thread.
        av.logging.set_level(None)
        self._path, self._errors = path, av.FFmpegError
        try:
            if camera:
                self._container = av.open(path, format=_CAMERAS.get(platform.system()))
            else:  # "file:": a name with a colon is no address
                self._container = av.open(
                    f"file:{path}", options=_OPTIONS, metadata_errors="replace"
                )
        except av.FFmpegError as error:
            raise ValueError(f"{path}: not a video that FFmpeg reads ({_reason(error)})") from error
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:  # None: no decoder
            name = self._container.format.name
            self.close()
            raise ValueError(f"{path}: holds no video (FFmpeg reads it as {name})")
        self._stream = streams[0]
        context = self._stream.codec_context
        context.options = {"max_pixels": str(MAX_PIXELS)}
        if context.width * context.height > MAX_PIXELS:
            size = f"{context.width}x{context.height}"
            self.close()
            raise ValueError(f"{path}: pictures larger than {MAX_PIXELS} pixels ({size})")
        self._stream.thread_type = "AUTO"
        self.info = _info(self._container, self._stream)

    def frames(self) -> Iterator[VideoFrame]:
        """Yields the pictures in order.

        Raises:
            ValueError: the first picture cannot be decoded. Damage behind it ends the video.
        """
        first: float | None = None
        try:
            for frame in self._container.decode(self._stream):
                if frame.width * frame.height > MAX_PIXELS:  # a decoder without the option
                    raise ValueError(f"{self._path}: pictures larger than {MAX_PIXELS} pixels")
                now = float(frame.time) if frame.time is not None else 0.0
                first = now if first is None else first
                yield VideoFrame(_upright(frame), max(0.0, now - first))
        except self._errors as error:
            if first is None:
                raise ValueError(f"{self._path}: no picture of it can be decoded") from error
            raise ValueError(f"{self._path}: damaged after its beginning ({_reason(error)})") from (
                error
            )

    def close(self) -> None:
        """Closes the file or the camera."""
        self._container.close()


def _info(container: "av.container.InputContainer", stream: Any) -> VideoInfo:
    rate = float(stream.average_rate) if stream.average_rate else None
    frames = stream.frames or None
    if frames is None and rate and container.duration:
        frames = round(rate * container.duration / 1_000_000)
    return VideoInfo(frames, rate)


def _upright(frame: Any) -> np.ndarray:
    """Returns RGB pixels, turned as the container says: phones store videos on their side."""
    image = frame.to_ndarray(format="rgb24")
    turns = round(getattr(frame, "rotation", 0) / 90) % 4  # counter-clockwise, as np.rot90 turns
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error).strip()


def camera_path(number: int) -> str:
    """Returns the device of a camera.

    Args:
        number: 0 for the first.

    Raises:
        FileNotFoundError: there is no such camera; the message lists those that there are.
    """
    if platform.system() != "Linux":  # FFmpeg has numbers on macOS; Windows needs a name
        return f"{number}" if platform.system() == "Darwin" else f"video={number}"
    path = pathlib.Path(f"/dev/video{number}")
    if not path.exists():
        found = sorted(str(each) for each in pathlib.Path("/dev").glob("video*"))
        raise FileNotFoundError(
            f"camera {number}: {path} does not exist (cameras here: {', '.join(found) or 'none'}); "
            "connect one, give --input=camera:NUMBER, or give a photo, a folder or a video"
        )
    return str(path)


@contextlib.contextmanager
def writing(path: pathlib.Path, rate: float | None) -> Iterator["VideoWriter"]:
    """Opens a video for writing, which gets its name when it is complete.

    After Ctrl-C what was written is completed and plays. After any other error nothing is left.

    Args:
        path: an .mp4.
        rate: frames per second that a player expects; frames carry their own times.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    stopped: KeyboardInterrupt | None = None
    with contextlib.suppress(_NoFrameError), atomic_file.atomic_path(path) as partial:
        writer = VideoWriter(partial, rate)
        try:
            try:
                yield writer
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
            writer.finish()
        finally:
            writer.abandon()
        if not writer.frames:
            raise _NoFrameError
    if stopped is not None:
        raise stopped


class _NoFrameError(Exception):
    """Nothing was written: the file is not to appear."""


class VideoWriter:
    """Writes pictures of one size as an .mp4.

    Args:
        path: to write.
        rate: frames per second that a player expects, or None.

    Attributes:
        frames: written so far.
    """

    def __init__(self, path: pathlib.Path, rate: float | None) -> None:
        self._path, self._rate = path, rate or 25.0
        self.frames = 0
        self._container: Any = None
        self._stream: Any = None
        self._last = -1

    def add(self, image: np.ndarray, seconds: float) -> None:
        """Writes a picture.

        Args:
            image: uint8 [height, width, 3], RGB. An odd last row or column is left out; a picture
                of another size than the first is cut, or filled with white.
            seconds: when it is shown, later than the one before it.

        Raises:
            OSError: the disk is full.
        """
        import av  # noqa: PLC0415

        with _disk_errors(self._path):
            if self._container is None:
                self._open(image.shape[1] // 2 * 2, image.shape[0] // 2 * 2)
            fitted = _fit(image, self._stream.height, width=self._stream.width)
            frame = av.VideoFrame.from_ndarray(fitted, format="rgb24")
            self._last = max(self._last + 1, round(seconds / _TIME_BASE))
            frame.pts, frame.time_base = self._last, _TIME_BASE
            self._container.mux(self._stream.encode(frame))
        self.frames += 1

    def _open(self, width: int, height: int) -> None:
        import av  # noqa: PLC0415

        self._container = av.open(str(self._path), "w", options={"movflags": "faststart"})
        name, options = next(pair for pair in _CODECS if pair[0] in av.codecs_available)
        rate = fractions.Fraction(self._rate).limit_denominator(1001)
        self._stream = self._container.add_stream(name, rate=rate, options=options)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = "yuv420p"
        self._stream.codec_context.time_base = _TIME_BASE

    def finish(self) -> None:
        """Writes what the encoder holds back, and the index without which nothing plays."""
        if self._container is not None:
            with _disk_errors(self._path):
                self._container.mux(self._stream.encode(None))
                self._container.close()
            self._container = None

    def abandon(self) -> None:
        """Closes a file that could not be finished."""
        if self._container is not None:
            with contextlib.suppress(Exception):
                self._container.close()
            self._container = None


def _fit(image: np.ndarray, height: int, *, width: int) -> np.ndarray:
    part = image[:height, :width]
    if part.shape[:2] == (height, width):
        return np.ascontiguousarray(part)
    whole = np.full((height, width, 3), 255, np.uint8)
    whole[: part.shape[0], : part.shape[1]] = part
    return whole


@contextlib.contextmanager
def _disk_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns FFmpeg's errors of writing into OSError, which a command reports in one line."""
    import av  # noqa: PLC0415

    try:
        yield
    except av.FFmpegError as error:
        raise OSError(f"{path.parent}: video not written: {_reason(error)}; {REMEDY}") from error

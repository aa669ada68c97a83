"""A bounded number of decoded samples on disk, which all child processes map into memory.

Images are decoded once for all files and all processes; memory grows neither with the list nor, but
for a single image, with the size of its images.
"""

import contextlib
import dataclasses
import os
import pathlib
from typing import BinaryIO

import numpy as np

from deeplab_tf.atomic_file import naming
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Placement, place

Canvas = tuple[int, int]
CHUNK_BYTES = 256_000_000
"""A chunk gets no further sample once it has so many bytes."""


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Samples first..first+count-1 of a list, as files that child processes open by path.

    Attributes:
        folder: holds `canvas_<h>x<w>.u8`, `label.u8` and `reference.u8`.
        first, count: range of the samples.
        channels: of the images.
        canvases: sizes (height, width) of the canvases that images were placed on.
        placements: for each canvas, one placement per sample.
        offsets: int64 [count + 1]; start of each sample's label in the flat files.
    """

    folder: pathlib.Path
    first: int
    count: int
    channels: int
    canvases: tuple[Canvas, ...]
    placements: dict[Canvas, tuple[Placement, ...]]
    offsets: np.ndarray

    def images(self, canvas: Canvas, mode: str = "r") -> np.memmap:
        """Maps the images of one canvas.

        Args:
            canvas: (height, width).
            mode: "r", "r+", or "w+" for a new file.

        Returns:
            uint8 [count, height, width, channels].
        """
        shape = (self.count, *canvas, self.channels)
        path = _canvas_path(self.folder, canvas)
        _reserve(path, mode, shape=shape)
        return np.memmap(path, np.uint8, _existing(mode), shape=shape)  # type: ignore[call-overload]

    def label_file(self, name: str, mode: str = "r") -> np.memmap:
        """Maps the labels or the reference's predictions of all samples, one after the other.

        Args:
            name: "label" or "reference".
            mode: "r", "r+", or "w+" for a new file.

        Returns:
            uint8 [pixels of all samples].
        """
        shape = (max(int(self.offsets[-1]), 1),)
        path = _label_path(self.folder, name)
        _reserve(path, mode, shape=shape)
        return np.memmap(path, np.uint8, _existing(mode), shape=shape)  # type: ignore[call-overload]

    def sample(self, flat: np.ndarray, index: int) -> np.ndarray:
        """Returns one sample's part of a flat file.

        Args:
            flat: as returned by `label_file`.
            index: of the sample in the chunk.

        Returns:
            uint8 [source height, source width].
        """
        placement = self.placements[self.canvases[0]][index]
        part = flat[self.offsets[index] : self.offsets[index + 1]]
        return part.reshape(placement.source_height, placement.source_width)


def _existing(mode: str) -> str:
    """Returns the mode for a file that `_reserve` has created."""
    return "r+" if mode == "w+" else mode


def _reserve(path: pathlib.Path, mode: str, *, shape: tuple[int, ...]) -> None:
    """Allocates the disk space of a new file: writing to a mapped hole of a full disk is fatal."""
    if mode == "w+":
        with naming(path), path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, int(np.prod(shape)))


def write_chunk(
    dataset: SegmentationDataset,
    first: int,
    *,
    count: int,
    canvases: tuple[Canvas, ...],
    folder: pathlib.Path,
) -> Chunk:
    """Decodes samples one by one and writes them to a folder, until it is full.

    Args:
        dataset: the list.
        first: number of the first sample.
        count: most samples.
        canvases: sizes (height, width) that the images are placed on.
        folder: created if missing.

    Returns:
        The chunk: at least one sample, and no more after CHUNK_BYTES.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read, or has other channels than the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    placements: dict[Canvas, list[Placement]] = {canvas: [] for canvas in canvases}
    sizes: list[int] = []
    written = 0
    with contextlib.ExitStack() as stack:

        def opened(path: pathlib.Path) -> BinaryIO:
            stack.enter_context(naming(path))
            return stack.enter_context(path.open("wb"))

        streams = {canvas: opened(_canvas_path(folder, canvas)) for canvas in canvases}
        labels = opened(_label_path(folder, "label"))
        while len(sizes) < count and written < CHUNK_BYTES:
            image, label = dataset.read(first + len(sizes))
            for canvas in canvases:
                placed, placement = place(image, canvas)
                placements[canvas].append(placement)
                written += streams[canvas].write(np.ascontiguousarray(placed, np.uint8).data)
            written += 2 * labels.write(np.ascontiguousarray(label, np.uint8).data)
            sizes.append(label.size)
    chunk = Chunk(
        folder=folder,
        first=first,
        count=len(sizes),
        channels=dataset.channels,
        canvases=canvases,
        placements={canvas: tuple(each) for canvas, each in placements.items()},
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )
    chunk.label_file("reference", "w+")
    return chunk


def _canvas_path(folder: pathlib.Path, canvas: Canvas) -> pathlib.Path:
    return folder / f"canvas_{canvas[0]}x{canvas[1]}.u8"


def _label_path(folder: pathlib.Path, name: str) -> pathlib.Path:
    return folder / f"{name}.u8"

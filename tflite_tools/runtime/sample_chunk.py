"""A bounded number of decoded samples on disk, which all child processes map into memory.

Images are decoded once for all files and all processes; memory does not grow with the list.
"""

import dataclasses
import os
import pathlib

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Placement, place

Canvas = tuple[int, int]


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
        path = self.folder / f"canvas_{canvas[0]}x{canvas[1]}.u8"
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
        _reserve(self.folder / f"{name}.u8", mode, shape=shape)
        return np.memmap(self.folder / f"{name}.u8", np.uint8, _existing(mode), shape=shape)  # type: ignore[call-overload]

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
        with path.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, int(np.prod(shape)))


def write_chunk(
    dataset: SegmentationDataset,
    first: int,
    *,
    count: int,
    canvases: tuple[Canvas, ...],
    folder: pathlib.Path,
) -> Chunk:
    """Decodes samples and writes them to a folder.

    Args:
        dataset: the list.
        first: number of the first sample.
        count: number of samples.
        canvases: sizes (height, width) that the images are placed on.
        folder: created if missing.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read, or has other channels than the data set.
    """
    folder.mkdir(parents=True, exist_ok=True)
    samples = [dataset.read(index) for index in range(first, first + count)]
    sizes = [label.size for _, label in samples]
    placed = {canvas: [place(image, canvas) for image, _ in samples] for canvas in canvases}
    chunk = Chunk(
        folder=folder,
        first=first,
        count=count,
        channels=dataset.channels,
        canvases=canvases,
        placements={
            canvas: tuple(placement for _, placement in pairs) for canvas, pairs in placed.items()
        },
        offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
    )
    for canvas, pairs in placed.items():
        images = chunk.images(canvas, "w+")
        for index, (image, _) in enumerate(pairs):
            images[index] = image
    labels = chunk.label_file("label", "w+")
    for index, (_, label) in enumerate(samples):
        chunk.sample(labels, index)[:] = label
    chunk.label_file("reference", "w+")
    return chunk

"""A bounded number of decoded samples on disk, which all child processes map into memory.

Photos are decoded once for all files and all processes; memory does not grow with the list.
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
    """Samples first..first+count-1 of a list, as files that children open by path.

    Attributes:
        folder: holds `canvas_<h>x<w>.u8`, `label.u8` and `reference.u8`.
        first, count: which samples.
        channels: of the photos.
        canvases: sizes that photos were placed at.
        placements: for each canvas, one placement a sample.
        offsets: int64 [count + 1]; where each sample's label begins in the flat files.
    """

    folder: pathlib.Path
    first: int
    count: int
    channels: int
    canvases: tuple[Canvas, ...]
    placements: dict[Canvas, tuple[Placement, ...]]
    offsets: np.ndarray

    def images(self, canvas: Canvas, mode: str = "r") -> np.memmap:
        """uint8 [count, height, width, channels]."""
        shape = (self.count, *canvas, self.channels)
        path = self.folder / f"canvas_{canvas[0]}x{canvas[1]}.u8"
        _reserve(path, mode, shape=shape)
        return np.memmap(path, np.uint8, _existing(mode), shape=shape)  # type: ignore[call-overload]

    def label_file(self, name: str, mode: str = "r") -> np.memmap:
        """uint8, the labels ("label") or the reference's predictions, one after the other."""
        shape = (max(int(self.offsets[-1]), 1),)
        _reserve(self.folder / f"{name}.u8", mode, shape=shape)
        return np.memmap(self.folder / f"{name}.u8", np.uint8, _existing(mode), shape=shape)  # type: ignore[call-overload]

    def sample(self, flat: np.ndarray, index: int) -> np.ndarray:
        """One sample's part of a flat file, uint8 [source height, source width]."""
        placement = self.placements[self.canvases[0]][index]
        part = flat[self.offsets[index] : self.offsets[index + 1]]
        return part.reshape(placement.source_height, placement.source_width)


def _existing(mode: str) -> str:
    """Mode for a file that `_reserve` has made."""
    return "r+" if mode == "w+" else mode


def _reserve(path: pathlib.Path, mode: str, *, shape: tuple[int, ...]) -> None:
    """Takes the disk space of a new file now: writing to a mapped hole of a full disk kills."""
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
    """Decodes samples and writes them under `folder`.

    Raises:
        ValueError, FileNotFoundError: a sample cannot be read, or has other channels than the
            data set.
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

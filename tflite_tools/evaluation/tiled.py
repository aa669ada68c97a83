"""Whole photos for the interpreters' children, which cut, run and stitch them; see data.tiles."""

import pathlib

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Placement
from deeplab_tf.data.tiles import check_overlap
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.pool import TIMEOUT_S
from tflite_tools.runtime.sample_chunk import Chunk

OFF = -1
"""Value of `tile_overlap` that scales every photo to fit."""

IMAGES_AHEAD = 8
"""Photos decoded ahead. Each takes 5 bytes a pixel on disk: 36 million pixels, 180 MB."""


def check_overlaps(contracts: list[ModelContract], tile_overlap: int) -> None:
    """ValueError naming the file whose input is too small for this overlap."""
    for contract in contracts if tile_overlap != OFF else ():
        try:
            check_overlap(tile_overlap, contract.height, tile_width=contract.width)
        except ValueError as error:
            raise ValueError(f"{contract.name}: {error}; change --tile_overlap") from error


def task_timeout_s(tile_overlap: int) -> float:
    """Seconds that one task may take.

    A tiled photo is one task and may be a thousand invokes; a file that never ends was found
    before, at its single first invoke.
    """
    return TIMEOUT_S if tile_overlap == OFF else 60 * TIMEOUT_S


def write_images(
    dataset: SegmentationDataset, first: int, *, count: int, folder: pathlib.Path
) -> list[Chunk]:
    """Decodes samples and writes each, at its own size, as a chunk of one sample.

    Raises:
        ValueError, FileNotFoundError: a sample cannot be read, or has other channels than the
            data set.
    """
    numbers = range(first, first + count)
    return [_write_image(dataset, index, folder=folder / str(index - first)) for index in numbers]


def _write_image(dataset: SegmentationDataset, index: int, *, folder: pathlib.Path) -> Chunk:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.u8"):  # of a photo of another size
        old.unlink()
    image, label = dataset.read(index)
    size = (label.shape[0], label.shape[1])
    chunk = Chunk(
        folder=folder,
        first=index,
        count=1,
        channels=dataset.channels,
        canvases=(size,),
        placements={size: (Placement(*size, *size),)},
        offsets=np.array([0, label.size], np.int64),
    )
    chunk.images(size, "w+")[0] = image
    chunk.sample(chunk.label_file("label", "w+"), 0)[:] = label
    chunk.label_file("reference", "w+")
    return chunk


def tiling_note(tile_overlap: int) -> str:
    """The setting in words, for the head of a table; "" where it is off."""
    if tile_overlap == OFF:
        return ""
    return (
        "photos larger than a file's input are not scaled but cut in tiles of the input's size, "
        f"overlapping by {tile_overlap} pixels at least; each pixel's class comes from the tile in "
        "which it lies farthest from the border"
    )


def invokes_note(invokes: int, images: int) -> str:
    """What a latency of one invoke leaves out; "" where every photo took one."""
    if invokes <= images:
        return ""
    return (
        f"cut in tiles: {invokes / images:.1f} invokes a photo on average ({invokes} for {images} "
        "photos); the latency is that of one"
    )

"""Images at full size for child processes, which cut, run and stitch them; see data.tiles."""

import pathlib

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Placement
from deeplab_tf.data.tiles import check_overlap
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.child_pool import TIMEOUT_S
from tflite_tools.runtime.sample_chunk import CHUNK_BYTES, Chunk

OFF = -1
"""Value of `tile_overlap` that scales every image to fit."""

IMAGES_AHEAD = 8
"""Images decoded ahead. Each takes 5 bytes per pixel on disk: 36 million pixels, 180 MB."""


def check_overlaps(contracts: list[ModelContract], tile_overlap: int) -> None:
    """Checks that every file's input is large enough for the overlap of tiles.

    Args:
        contracts: the files.
        tile_overlap: as in `EvaluationOptions`.

    Raises:
        ValueError: an input is too small; the file is named.
    """
    for contract in contracts if tile_overlap != OFF else ():
        try:
            check_overlap(tile_overlap, contract.height, tile_width=contract.width)
        except ValueError as error:
            raise ValueError(f"{contract.name}: {error}; change --tile_overlap") from error


def task_timeout_s(tile_overlap: int) -> float:
    """Returns the seconds that one task may take.

    A tiled image is one task and may take a thousand invokes; a file that never ends was found
    before, at its single first invoke.

    Args:
        tile_overlap: as in `EvaluationOptions`.
    """
    return TIMEOUT_S if tile_overlap == OFF else 60 * TIMEOUT_S


def write_images(
    dataset: SegmentationDataset, first: int, *, count: int, folder: pathlib.Path
) -> list[Chunk]:
    """Decodes samples and writes each, at its own size, as a chunk; stops at CHUNK_BYTES.

    Args:
        dataset: the list.
        first: number of the first sample.
        count: most samples.
        folder: gets one folder per sample.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read, or has other channels than the data set.
    """
    chunks: list[Chunk] = []
    written = 0
    while len(chunks) < count and written < CHUNK_BYTES:
        number = len(chunks)
        chunks.append(_write_image(dataset, first + number, folder=folder / str(number)))
        written += int(chunks[-1].offsets[-1]) * (dataset.channels + 2)
    return chunks


def _write_image(dataset: SegmentationDataset, index: int, *, folder: pathlib.Path) -> Chunk:
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.u8"):  # of an image of another size
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
    """Describes the setting, for the head of a table; "" if it is off.

    Args:
        tile_overlap: as in `EvaluationOptions`.
    """
    if tile_overlap == OFF:
        return ""
    return (
        "images larger than a file's input are not scaled but cut in tiles of the input's size, "
        f"overlapping by at least {tile_overlap} pixels; each pixel's class comes from the tile in "
        "which it lies farthest from the border"
    )


def invokes_note(invokes: int, images: int) -> str:
    """Describes how many invokes an image takes; "" if it is one for every image.

    Args:
        invokes: in total.
        images: number of images.
    """
    if invokes <= images:
        return ""
    return (
        f"cut in tiles: {invokes / images:.1f} invokes per image on average ({invokes} for "
        f"{images} images); the latency is that of one invoke"
    )

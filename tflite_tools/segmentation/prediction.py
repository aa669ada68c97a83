"""Runs files on pictures in child processes, several pictures at a time, in order."""

import dataclasses
import itertools
import time
from collections.abc import Iterable, Iterator

import numpy as np
from PIL import Image

from deeplab_tf.data.images import IMAGE_CHANNELS
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.segmentation.sources import Picture

_FEWEST_ROWS = 8
_AHEAD = 2
"""Pictures in memory for each process."""


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What one file gives for one picture.

    Attributes:
        mask: unsigned [height, width], of the picture's size.
        ms: of placing the picture, running the network and reading its output.
    """

    mask: np.ndarray
    ms: float


def predict(runner: ModelRunner, image: np.ndarray, tile_overlap: int) -> Prediction:
    """Segments one picture; runs in a child process.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels], with the channels of the file.
        tile_overlap: see `ModelRunner.full_size_class_map`.
    """
    started = time.perf_counter()
    mask, _ = runner.full_size_class_map(image, tile_overlap)
    return Prediction(mask, (time.perf_counter() - started) * 1e3)


def check_input(contract: ModelContract) -> None:
    """Checks that a file takes photos.

    Args:
        contract: of the file.

    Raises:
        ValueError: its input has other than 1, 3 or 4 channels, or hardly any pixels.
    """
    if min(contract.height, contract.width) < _FEWEST_ROWS:
        raise ValueError(
            f"{contract.path}: expected an input of at least {_FEWEST_ROWS} x {_FEWEST_ROWS} "
            f"pixels, got {contract.height} x {contract.width}, as files store a size that is left "
            "open; convert the network with a fixed size"
        )
    if contract.channels not in IMAGE_CHANNELS:
        raise ValueError(
            f"{contract.path}: expected an input of 1 (gray), 3 (RGB) or 4 channels, got "
            f"{contract.channels}; photos have no more: score it with tflite_tools.evaluate on the "
            "data set that has them"
        )


def fed(picture: Picture, contract: ModelContract) -> np.ndarray:
    """Returns a picture with the channels that a file takes.

    Args:
        picture: in RGB, perhaps with a fourth channel.
        contract: of the file.

    Returns:
        uint8 [height, width, 1, 3 or 4].

    Raises:
        ValueError: the file takes a fourth channel, and the picture has none.
    """
    if contract.channels == 1:
        return np.asarray(Image.fromarray(picture.image).convert("L"))[..., None]
    if contract.channels == 3:
        return picture.image
    if picture.fourth is None:
        raise ValueError(
            f"{contract.path}: takes images of 4 channels, and {picture.name} has 3; give a photo "
            "that stores the fourth (RGBA)"
        )
    return np.concatenate((picture.image, picture.fourth[..., None]), axis=-1)


def predict_all(
    pool: InterpreterPool,
    contracts: list[ModelContract],
    *,
    pictures: Iterable[Picture],
    processes: int,
    tile_overlap: int,
) -> Iterator[tuple[Picture, list[Prediction | None]]]:
    """Segments pictures, of which a bounded number is in memory.

    Args:
        pool: of the files.
        contracts: of the files.
        pictures: read as they are needed.
        processes: of the pool.
        tile_overlap: see `ModelRunner.full_size_class_map`.

    Yields:
        A picture and the prediction of each file, None of a file that failed.
    """
    waiting = iter(pictures)
    while batch := list(itertools.islice(waiting, _AHEAD * processes)):
        found: list[list[Prediction | None]] = [[None] * len(contracts) for _ in batch]
        tasks, numbers = [], {}
        for number, picture in enumerate(batch):
            for model, contract in enumerate(contracts):
                arguments = (fed(picture, contract), tile_overlap)
                tasks.append(Task(model, predict, arguments=arguments))
                numbers[id(tasks[-1])] = number
        for outcome in pool.run(tasks):
            found[numbers[id(outcome.task)]][outcome.task.model] = outcome.value
        yield from zip(batch, found, strict=True)

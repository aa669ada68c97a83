"""A picture of masks: each image, its label, and the mask of each file, side by side."""

import pathlib
from collections.abc import Iterable, Iterator

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from tflite_tools.contract import ModelContract
from tflite_tools.drawing import captioned_row, stacked
from tflite_tools.evaluation.tiled import OFF, task_timeout_s
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

TILE_WIDTH = 240


def _predict(runner: ModelRunner, image: np.ndarray, tile_overlap: int) -> np.ndarray:
    """Returns the class map at the image's own size; runs in a child process."""
    return runner.full_size_class_map(image, tile_overlap)[0]


def predict_all(
    contracts: list[ModelContract],
    images: Iterable[np.ndarray],
    *,
    processes: int = 1,
    tile_overlap: int = OFF,
    width: int | None = None,
) -> dict[tuple[int, int], np.ndarray]:
    """Predicts the class map of each file for each image.

    Args:
        contracts: the files.
        images: uint8 [height, width, channels] each; taken one by one, as processes become free.
        processes: interpreters that work in parallel.
        tile_overlap: as in `EvaluationOptions`.
        width: to which each map is scaled as soon as it is there; None: the image's own.

    Returns:
        uint8 class maps by (index of the file, index of the image), without failures.
    """
    predictions: dict[tuple[int, int], np.ndarray] = {}
    keys: dict[int, tuple[int, int]] = {}

    def tasks() -> Iterator[Task]:
        for number, image in enumerate(images):
            for model in range(len(contracts)):
                task = Task(model, _predict, arguments=(image, tile_overlap))
                keys[id(task)] = (model, number)
                yield task

    with InterpreterPool(contracts, processes, timeout_s=task_timeout_s(tile_overlap)) as pool:
        for outcome in pool.run(tasks()):
            key = keys.pop(id(outcome.task))
            if not outcome.failure:
                mask = outcome.value
                predictions[key] = mask if width is None else _scaled(mask, width)
    return predictions


def _scaled(pixels: np.ndarray, width: int) -> np.ndarray:
    """Returns an image or a class map at a width, each pixel from the nearest one."""
    height = max(1, round(pixels.shape[0] * width / pixels.shape[1]))
    rows, columns = (
        ((np.arange(target) + 0.5) * source / target).astype(np.int64)
        for target, source in zip((height, width), pixels.shape[:2], strict=True)
    )
    return pixels[rows[:, None], columns]


def grid_samples(count: int, total: int) -> list[int]:
    """Returns `count` sample numbers spread evenly over a list.

    Args:
        count: at most so many.
        total: length of the list.
    """
    return sorted({round(index) for index in np.linspace(0, total - 1, min(count, total))})


def write_grid(
    contracts: list[ModelContract],
    dataset: SegmentationDataset,
    *,
    samples: list[int],
    path: pathlib.Path,
    tile_overlap: int = OFF,
) -> None:
    """Draws one row per sample: image, label, masks. Ignored pixels of the label are cream.

    Images that do not have 3 channels are shown by their first channel.

    Args:
        contracts: the files.
        dataset: the list.
        samples: numbers of the samples.
        path: picture to write.
        tile_overlap: as in `EvaluationOptions`.
    """
    photos: list[np.ndarray] = []

    def images() -> Iterator[np.ndarray]:
        for index in samples:
            image = dataset.image(index)
            shown = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
            photos.append(_scaled(shown, TILE_WIDTH))
            yield image

    predictions = predict_all(contracts, images(), tile_overlap=tile_overlap, width=TILE_WIDTH)
    rows = []
    for number, (index, photo) in enumerate(zip(samples, photos, strict=True)):
        truth = dataset.label_set.colorize(_scaled(dataset.label(index), TILE_WIDTH))
        tiles = [("photo", photo), ("truth", truth)]
        for model, contract in enumerate(contracts):
            if (model, number) in predictions:
                mask = dataset.label_set.colorize(predictions[model, number])
                tiles.append((contract.name, mask))
        rows.append(captioned_row(tiles, TILE_WIDTH))
    sheet = stacked(rows)
    with atomic_file.atomic_path(path) as temporary:
        sheet.save(temporary)

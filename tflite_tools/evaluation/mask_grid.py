"""A picture of masks: each image, its label, and the mask of each file, side by side."""

import pathlib

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
    images: list[np.ndarray],
    *,
    processes: int = 1,
    tile_overlap: int = OFF,
) -> dict[tuple[int, int], np.ndarray]:
    """Predicts the class map of each file for each image.

    Args:
        contracts: the files.
        images: uint8 [height, width, channels] each.
        processes: interpreters that work in parallel.
        tile_overlap: as in `EvaluationOptions`.

    Returns:
        uint8 [height, width] by (index of the file, index of the image), without failures.
    """
    predictions = {}
    with InterpreterPool(contracts, processes, timeout_s=task_timeout_s(tile_overlap)) as pool:
        keys = {}
        tasks = []
        for number, image in enumerate(images):
            for model in range(len(contracts)):
                tasks.append(Task(model, _predict, arguments=(image, tile_overlap)))
                keys[id(tasks[-1])] = (model, number)
        for outcome in pool.run(tasks):
            if not outcome.failure:
                predictions[keys[id(outcome.task)]] = outcome.value
    return predictions


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
    """Draws one row per sample: image, label, masks. Ignored pixels of the label are black.

    Images that do not have 3 channels are shown by their first channel.

    Args:
        contracts: the files.
        dataset: the list.
        samples: numbers of the samples.
        path: picture to write.
        tile_overlap: as in `EvaluationOptions`.
    """
    images = [dataset.image(index) for index in samples]
    predictions = predict_all(contracts, images, tile_overlap=tile_overlap)
    rows = []
    for number, (index, image) in enumerate(zip(samples, images, strict=True)):
        shown = image if image.shape[2] == 3 else np.repeat(image[:, :, :1], 3, axis=2)
        tiles = [("photo", shown), ("truth", dataset.label_set.colorize(dataset.label(index)))]
        for model, contract in enumerate(contracts):
            if (model, number) in predictions:
                mask = dataset.label_set.colorize(predictions[model, number])
                tiles.append((contract.name, mask))
        rows.append(captioned_row(tiles, TILE_WIDTH))
    sheet = stacked(rows)
    with atomic_file.atomic_path(path) as temporary:
        sheet.save(temporary)

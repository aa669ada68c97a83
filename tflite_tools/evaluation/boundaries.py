"""Counts for the boundary IoU of files over a list of samples, in child processes."""

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics.boundary import band_width, boundary_counts
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import CHUNK_IMAGES, TASK_IMAGES
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.sample_chunk import Chunk, write_chunk


def score_boundaries(
    runner: ModelRunner, chunk: Chunk, start: int, stop: int, num_classes: int
) -> np.ndarray:
    """Counts boundary pixels of samples start..stop-1; runs in a child process.

    Args:
        runner: of the file.
        chunk: decoded samples.
        start: first sample.
        stop: end of the range.
        num_classes: of the labels.

    Returns:
        int64 [samples, num_classes, 2]; see `boundary_counts`.
    """
    canvas = (runner.contract.height, runner.contract.width)
    images, labels = chunk.images(canvas), chunk.label_file("label")
    counts = []
    for index in range(start, stop):
        label = chunk.sample(labels, index)
        on_canvas = runner.class_map(images[index])
        prediction = chunk.placements[canvas][index].restore_label(on_canvas)
        distance = band_width(*label.shape)
        counts.append(
            boundary_counts(label, prediction, num_classes=num_classes, distance=distance)
        )
    return np.stack(counts)


def count_boundaries(
    contracts: list[ModelContract], dataset: SegmentationDataset, *, count: int, processes: int
) -> tuple[dict[int, np.ndarray], dict[int, str]]:
    """Counts boundary pixels of files over the first `count` samples.

    Args:
        contracts: files that ran before without a failure.
        dataset: the list.
        count: number of samples.
        processes: interpreters that work in parallel.

    Returns:
        int64 [samples, num_classes, 2] by index of the file, and the failures by index.
    """
    if not contracts:
        return {}, {}
    num_classes = dataset.label_set.num_classes
    totals = {index: np.zeros((count, num_classes, 2), np.int64) for index in range(len(contracts))}
    canvases = tuple(sorted({(contract.height, contract.width) for contract in contracts}))
    with (
        scratch_folder("boundaries") as scratch,
        InterpreterPool(contracts, processes) as pool,
    ):
        first = 0
        while first < count:
            size = min(CHUNK_IMAGES, count - first)
            chunk = write_chunk(dataset, first, count=size, canvases=canvases, folder=scratch)
            size = chunk.count
            tasks = [
                Task(
                    index,
                    score_boundaries,
                    arguments=(chunk, start, min(start + TASK_IMAGES, size), num_classes),
                )
                for index in range(len(contracts))
                for start in range(0, size, TASK_IMAGES)
            ]
            for outcome in pool.run(tasks):
                if not outcome.failure:
                    _, start, stop, _ = outcome.task.arguments
                    totals[outcome.task.model][first + start : first + stop] = outcome.value
            first += size
        failures = dict(pool.broken)
    return {index: total for index, total in totals.items() if index not in failures}, failures

"""Scores several `.tflite` files on one labelled list, image by image in turn."""

import concurrent.futures
import dataclasses
import itertools
import os
import pathlib
from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import place, place_label
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.resampling import Dependence
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.tiled import (
    IMAGES_AHEAD,
    OFF,
    check_overlaps,
    invokes_note,
    task_timeout_s,
    write_images,
)
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.interpreter import BUILTIN_NOTE, Kernels
from tflite_tools.runtime.latency import LatencyMs, measure_latency
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.sample_chunk import Chunk, write_chunk

CHUNK_IMAGES = 16
"""Samples decoded ahead while the child processes work; bounds disk and memory."""
TASK_IMAGES = 2
"""Samples per task; small, so that no process waits long for another at the end of a chunk."""


@dataclasses.dataclass(frozen=True)
class EvaluationOptions:
    """How files are run.

    Attributes:
        processes: interpreters that work in parallel, for accuracy.
        num_threads: of the interpreter whose latency is measured.
        latency_repeats, latency_warmup: invokes per file; 0 repeats skip the measurement.
        limit: samples of the list, or 0 for all.
        mean_over: classes that mIoU is the mean of; empty for all.
        keep_images: keep the matrix of every sample, for confidence intervals.
        tile_overlap: -1 scales images to fit; from 0 on, larger images are cut in tiles of the
            file's input size, which overlap by at least so many pixels.
        mean_loss: also compute the cross-entropy of files that give logits.
        block_length: neighbouring images that intervals take together; 0: what the data set says
            of its samples, and the measured autocorrelation where it has few groups.
    """

    processes: int = 2
    num_threads: int = 1
    latency_repeats: int = 30
    latency_warmup: int = 3
    limit: int = 0
    mean_over: tuple[str, ...] = ()
    keep_images: bool = False
    tile_overlap: int = OFF
    mean_loss: bool = False
    block_length: int = 0

    @property
    def scoring(self) -> "ScoringOptions":
        """Options for the scoring of samples."""
        return ScoringOptions(self.keep_images, self.tile_overlap, mean_loss=self.mean_loss)

    def __post_init__(self) -> None:
        if self.processes < 1 or self.num_threads < 1:
            raise ValueError(
                f"processes and threads must be at least 1; got {self.processes} and "
                f"{self.num_threads}"
            )
        counts = (self.latency_repeats, self.latency_warmup, self.limit, self.block_length)
        if min(counts) < 0:
            raise ValueError(
                "latency repeats, warm-up, limit and block length must not be negative; got "
                f"{', '.join(str(count) for count in counts)}"
            )
        if self.tile_overlap < OFF:
            raise ValueError(
                f"tile_overlap must be -1 (off) or at least 0 pixels; got {self.tile_overlap}"
            )
        if self.mean_loss and self.tile_overlap != OFF:
            raise ValueError(
                "the mean loss is computed on images scaled to fit, not on tiles, which count "
                "pixels twice where they overlap; use --mean_loss or --tile_overlap, not both"
            )

    def dependence(self, dataset: SegmentationDataset, images: int) -> Dependence:
        """Returns which of the scored samples belong together.

        Args:
            dataset: that they are of.
            images: how many were scored, from the first.
        """
        return Dependence(dataset.groups(images), self.block_length)

    def mean_indices(self, dataset: SegmentationDataset) -> tuple[int, ...]:
        """Returns the class indices of `mean_over` in a data set.

        Args:
            dataset: its classes are searched by name.

        Raises:
            ValueError: it does not have one of the classes.
        """
        names = dataset.label_set.names
        if unknown := [name for name in self.mean_over if name not in names]:
            raise ValueError(
                f"{dataset.name} has no class {', '.join(unknown)}; it has {', '.join(names)}"
            )
        return tuple(names.index(name) for name in self.mean_over)


@dataclasses.dataclass
class ModelResult:
    """Results of the evaluation of one file.

    Attributes:
        contract: how the file is fed and read.
        images: samples scored.
        invokes: runs of the network for them; more than samples if images were cut in tiles.
        matrix: int64 [num_classes, num_classes + 1].
        image_matrices: uint32 [images, num_classes, num_classes + 1], or None.
        agreement: fraction of pixels with the reference's class, or None without reference.
        mean_loss: cross-entropy in nats over the labelled pixels of the network's canvas, or
            None if it was not requested or the file gives classes or probabilities.
        constant_images: samples whose prediction was one single class.
        latency: of one invoke, or None.
        memory_mb: growth of the peak resident memory of a separate process that loads the file
            and runs it once, 10^6 bytes.
        kernels: that ran it, or None if not known.
        failure: reason why there is no score, or "".
        warnings: what a user must know, one line each.
    """

    contract: ModelContract
    images: int = 0
    invokes: int = 0
    matrix: np.ndarray | None = None
    image_matrices: np.ndarray | None = None
    agreement: float | None = None
    mean_loss: float | None = None
    constant_images: int = 0
    latency: LatencyMs | None = None
    memory_mb: float | None = None
    kernels: Kernels | None = None
    failure: str = ""
    warnings: list[str] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class _Score:
    """Sum over the samples of one task."""

    matrix: np.ndarray
    constant: int
    agreeing: int
    pixels: int
    invokes: int = 0
    loss: float = 0.0
    loss_pixels: int = 0
    kernels: Kernels | None = None
    images: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    """Matrix of each sample by its number in the chunk, in the total in the list."""


@dataclasses.dataclass(frozen=True)
class ScoringOptions:
    """How samples are scored.

    Attributes:
        keep_images: keep the matrix of every sample.
        tile_overlap: least overlap in pixels of the tiles that a large image is cut in; `OFF`
            scales it to fit.
        mean_loss: also compute the cross-entropy of the logits.
    """

    keep_images: bool = False
    tile_overlap: int = OFF
    mean_loss: bool = False


@dataclasses.dataclass(frozen=True)
class Part:
    """Samples start..stop-1 of a chunk, for one file.

    Attributes:
        chunk: decoded samples; at full size if they are cut in tiles.
        start, stop: range of the samples.
        num_classes: of the labels.
        is_reference: whether the predictions of other files are compared with this file's.
        options: how they are scored.
    """

    chunk: Chunk
    start: int
    stop: int
    num_classes: int
    is_reference: bool
    options: ScoringOptions


def score_samples(runner: ModelRunner, part: Part) -> _Score:
    """Scores one file on some samples; runs in a child process.

    Args:
        runner: of the file.
        part: the samples.

    Returns:
        Sums over the samples.
    """
    chunk, num_classes = part.chunk, part.num_classes
    mean_loss = part.options.mean_loss and runner.contract.gives_logits
    whole = part.options.tile_overlap == OFF
    canvas = (runner.contract.height, runner.contract.width)
    images = chunk.images(canvas if whole else chunk.canvases[0])
    labels = chunk.label_file("label")
    reference = chunk.label_file("reference", "r+" if part.is_reference else "r")
    total = _Score(np.zeros((num_classes, num_classes + 1), np.int64), 0, agreeing=0, pixels=0)
    for index in range(part.start, part.stop):
        label = chunk.sample(labels, index)
        if whole:
            on_canvas = runner.class_map(images[index])
            prediction, invokes = chunk.placements[canvas][index].restore_label(on_canvas), 1
        else:
            prediction, invokes = runner.full_size_class_map(
                images[index], part.options.tile_overlap
            )
        matrix = confusion.confusion_matrix(label, prediction, num_classes=num_classes)
        total.matrix += matrix
        if part.options.keep_images:
            total.images[index] = matrix.astype(np.uint32)
        if mean_loss:
            loss, pixels = runner.cross_entropy(place_label(label, canvas, fill=IGNORE_LABEL))
            total.loss, total.loss_pixels = total.loss + loss, total.loss_pixels + pixels
        total.constant += int(np.all(prediction == prediction[0, 0]))
        if part.is_reference:
            chunk.sample(reference, index)[:] = prediction
        else:
            total.agreeing += int((prediction == chunk.sample(reference, index)).sum())
        total.pixels += prediction.size
        total.invokes += invokes
    total.kernels = runner.kernels
    return total


def probe(runner: ModelRunner, image: np.ndarray) -> tuple[float, Kernels]:
    """Runs a file once, in a child process of its own.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels], of the input's size.

    Returns:
        Memory that it took, in 10^6 bytes, and the kernels that ran.
    """
    runner.class_map(image)
    return runner.memory_mb(), runner.kernels


def evaluate(
    contracts: list[ModelContract],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    reference: int | None = None,
) -> list[ModelResult]:
    """Scores files on a labelled list.

    Args:
        contracts: the files.
        dataset: the list.
        options: how the files are run and scored.
        reference: index of the file that the others are compared with, or None.

    Returns:
        One result per file, in order.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read, no file is left to score, or the overlap of tiles is
            too large for a file's input.
    """
    options.mean_indices(dataset)  # raises before the work starts
    check_overlaps(contracts, options.tile_overlap)
    results = [ModelResult(contract) for contract in contracts]
    if len(channels := {contract.channels for contract in contracts}) == 1:
        dataset = dataset.with_channels(channels.pop())
    for result in results:
        check_compatibility(result, dataset)
        if options.mean_loss and result.contract.probabilities:
            result.warnings.append("gives probabilities, not logits: the mean loss is not computed")
    _probe_all(results, dataset)
    count = min(options.limit or len(dataset), len(dataset))
    with (
        scratch_folder("evaluate") as folder,
        InterpreterPool(
            contracts, options.processes, timeout_s=task_timeout_s(options.tile_overlap)
        ) as pool,
    ):
        pool.broken |= {
            index: result.failure for index, result in enumerate(results) if result.failure
        }
        score_list(
            results,
            dataset,
            count=count,
            pool=pool,
            scratch=folder,
            reference=reference,
            options=options.scoring,
        )
        for index, failure in pool.broken.items():
            results[index].failure = failure
    if options.latency_repeats:
        measure_all(results, dataset, options=options)
    for result in results:
        add_mask_warnings(result, dataset)
    return results


def check_compatibility(result: ModelResult, dataset: SegmentationDataset) -> None:
    """Sets the failure or adds warnings where a file does not fit a data set.

    Args:
        result: of the file, changed in place.
        dataset: its channels, classes and sensor are compared with the file's.
    """
    contract, label_set = result.contract, dataset.label_set
    if contract.channels != dataset.channels:
        result.failure = (
            f"expected {dataset.channels} channels ({dataset.name}), got {contract.channels}"
        )
    elif contract.num_classes is not None and contract.num_classes != label_set.num_classes:
        result.failure = (
            f"expected {label_set.num_classes} classes ({dataset.name}), got "
            f"{contract.num_classes}; evaluate on the data set that the file was trained on"
        )
    elif contract.sensor and (other := contract.sensor.difference(dataset.sensor)):
        result.failure = (
            f"trained on range images of another sensor than {dataset.name} ({other}); give the "
            "--data_dir whose sensor.json it was trained with"
        )
    elif contract.label_set and contract.label_set.names != label_set.names:
        result.warnings.append(
            f"its label list differs from {dataset.name}'s; classes are compared by index, not by "
            "name"
        )
    result.warnings += contract.warnings


def _probe_all(results: list[ModelResult], dataset: SegmentationDataset) -> None:
    """Runs each file once in a new process: finds crashes, measures memory."""
    image = dataset.image(0)
    for result in results:
        if result.failure:
            continue
        contract = result.contract
        canvas, _ = place(image, (contract.height, contract.width))
        with InterpreterPool([contract], 1) as pool:
            tasks = [Task(0, probe, arguments=(canvas,))]
            for outcome in pool.run(tasks):
                result.failure = outcome.failure
                if not outcome.failure:
                    result.memory_mb, result.kernels = outcome.value
                    if result.kernels is Kernels.BUILTIN:
                        result.warnings.append(BUILTIN_NOTE)


def score_list(
    results: list[ModelResult],
    dataset: SegmentationDataset,
    *,
    count: int,
    pool: InterpreterPool,
    scratch: pathlib.Path,
    reference: int | None,
    options: ScoringOptions = ScoringOptions(),
) -> None:
    """Fills the matrix, agreement and counts of each result from the first `count` samples.

    Args:
        results: one per file of the pool, changed in place; those with a failure are skipped.
        dataset: the list.
        count: number of samples.
        pool: of the files, in the order of `results`.
        scratch: empty folder for decoded samples.
        reference: index of the file that the others are compared with, or None.
        options: how they are scored.
    """
    alive = [index for index, result in enumerate(results) if not result.failure]
    if not alive:
        return
    canvases = tuple(
        sorted({(results[i].contract.height, results[i].contract.width) for i in alive})
    )
    totals = {
        index: _Score(
            np.zeros((dataset.label_set.num_classes, dataset.label_set.num_classes + 1), np.int64),
            0,
            agreeing=0,
            pixels=0,
        )
        for index in alive
    }
    order = sorted(alive, key=lambda index: index != reference)
    bar = tqdm(total=count * len(alive), desc="evaluate", unit="image", disable=None)
    with bar, concurrent.futures.ThreadPoolExecutor(1) as decoder:
        whole = options.tile_overlap == OFF
        step = CHUNK_IMAGES if whole else IMAGES_AHEAD

        def write(first: int, folder: pathlib.Path) -> list[Chunk]:
            size = min(step, count - first)
            if whole:
                return [write_chunk(dataset, first, count=size, canvases=canvases, folder=folder)]
            return write_images(dataset, first, count=size, folder=folder)

        folders = itertools.cycle([scratch / "chunk0", scratch / "chunk1"])
        ahead, following = decoder.submit(write, 0, next(folders)), 0
        while following < count:
            chunks = ahead.result()
            following = chunks[-1].first + chunks[-1].count
            if following < count:
                ahead = decoder.submit(write, following, next(folders))
            for group in ([reference], [i for i in order if i != reference]):
                indices = [i for i in group if i in totals]
                tasks = _tasks(
                    indices,
                    chunks,
                    num_classes=dataset.label_set.num_classes,
                    reference=reference,
                    options=options,
                )
                for outcome in pool.run(tasks):
                    if outcome.failure:
                        continue
                    (part,) = outcome.task.arguments
                    total = totals[outcome.task.model]
                    _add(total, outcome.value, first=part.chunk.first)
                    bar.update(part.stop - part.start)
    with_reference = reference in totals and reference not in pool.broken
    for index, total in totals.items():
        if index in pool.broken:
            continue
        result = results[index]
        result.images, result.matrix, result.constant_images = count, total.matrix, total.constant
        result.invokes = total.invokes
        result.kernels = total.kernels or result.kernels
        if total.loss_pixels:
            result.mean_loss = total.loss / total.loss_pixels
        if options.keep_images:
            result.image_matrices = np.stack([total.images[number] for number in range(count)])
        if with_reference and index != reference and total.pixels:
            result.agreement = total.agreeing / total.pixels


def _tasks(
    models: list[int],
    chunks: list[Chunk],
    *,
    num_classes: int,
    reference: int | None,
    options: ScoringOptions,
) -> Iterator[Task]:
    for index, chunk in itertools.product(models, chunks):
        for start in range(0, chunk.count, TASK_IMAGES):
            stop = min(start + TASK_IMAGES, chunk.count)
            part = Part(
                chunk,
                start,
                stop=stop,
                num_classes=num_classes,
                is_reference=index == reference,
                options=options,
            )
            yield Task(index, score_samples, arguments=(part,))


def _add(total: _Score, part: _Score, *, first: int) -> None:
    total.matrix += part.matrix
    total.constant += part.constant
    total.agreeing += part.agreeing
    total.pixels += part.pixels
    total.invokes += part.invokes
    total.loss += part.loss
    total.loss_pixels += part.loss_pixels
    total.kernels = part.kernels or total.kernels
    total.images |= {first + number: matrix for number, matrix in part.images.items()}


def measure_all(
    results: list[ModelResult], dataset: SegmentationDataset, *, options: EvaluationOptions
) -> None:
    """Measures the latency of all files that ran, interleaved in one process.

    Args:
        results: of the files, changed in place; those with a failure are skipped.
        dataset: its first image is fed.
        options: threads, warm-up and repeats.
    """
    alive = [index for index, result in enumerate(results) if not result.failure]
    measured = measure_latency(
        [results[index].contract for index in alive],
        dataset.image(0),
        num_threads=options.num_threads,
        warmup=options.latency_warmup,
        repeats=options.latency_repeats,
    )
    for index, latency in zip(alive, measured, strict=True):
        results[index].latency = latency


def add_mask_warnings(result: ModelResult, dataset: SegmentationDataset) -> None:
    """Adds warnings for constant masks, missing classes and images cut in tiles.

    Args:
        result: of the file, changed in place.
        dataset: the list that it was scored on.
    """
    if result.failure or result.matrix is None or not result.images:
        return
    if note := invokes_note(result.invokes, result.images):
        result.warnings.append(note)
    predicted = result.matrix.sum(0)
    names = (*dataset.label_set.names, "a class outside the label set")
    if result.constant_images == result.images:
        only = names[int(predicted.argmax())]
        result.warnings.insert(
            0,
            f"CONSTANT MASK: each of the {result.images} images is entirely {only!r}. Likely "
            "causes: training of too few steps (check the float file), "
            "images normalized twice or not at all, calibration on images that were not "
            "normalized, or an argmax of a cast output",
        )
        return
    if result.constant_images:
        result.warnings.append(f"{result.constant_images} of {result.images} masks are constant")
    truth = result.matrix.sum(1)
    never = [
        dataset.label_set.names[index]
        for index in np.flatnonzero((truth > 0) & (predicted[: len(truth)] == 0))
    ]
    if never:
        result.warnings.append("never predicted, though it occurs: " + ", ".join(never))
    if predicted[-1]:
        result.warnings.append(
            f"{int(predicted[-1])} pixels have a class that {dataset.name} does not have; the "
            "order or number of the file's classes differs"
        )


def default_processes() -> int:
    """Returns one process per processor core of this machine."""
    return os.cpu_count() or 1

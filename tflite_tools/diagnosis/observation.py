"""Runs a file on photos and records masks, other ways of feeding, and inner tensors."""

import dataclasses
import pathlib
from collections.abc import Iterator

import numpy as np

from deeplab_tf.data.dataset import Subset
from deeplab_tf.data.preprocessing import place
from deeplab_tf.scratch import scratch_folder
from tflite_tools.contract import ModelContract
from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.layers import LayerStatistics, measure_layers
from tflite_tools.diagnosis.pairing import pair_tensors
from tflite_tools.diagnosis.views import DECLARED, View, all_views
from tflite_tools.evaluation.evaluation import ModelResult, ScoringOptions, score_list
from tflite_tools.evaluation.signal_to_noise import real_output
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool


@dataclasses.dataclass(frozen=True)
class Effort:
    """How much is run.

    Attributes:
        limit: photos of the list whose masks are scored; 0 for all.
        sample: photos for other ways of feeding and for inner tensors, spread over the list.
        processes: interpreters that work in parallel.
    """

    limit: int = 0
    sample: int = 8
    processes: int = 2

    def __post_init__(self) -> None:
        if self.limit < 0 or self.sample < 1 or self.processes < 1:
            raise ValueError(
                f"limit must not be negative, sample photos and processes at least 1; got "
                f"{self.limit}, {self.sample} and {self.processes}"
            )


@dataclasses.dataclass
class Observations:
    """Everything that was observed; empty if nothing ran.

    Attributes:
        sizes: (height, width) of the sample photos.
        pixel_ranges: (smallest, largest) pixel value of each sample photo.
        matrix: int64 [num_classes, num_classes + 1] over the list, or None.
        images: photos in `matrix`.
        holding: int64 [num_classes], number of them whose labels contain the class, or None.
        constant_images: number of them whose mask has a single class.
        views: uint32 [sample, num_classes, num_classes + 1], matrices of each way of feeding.
        view_contracts: contract of each way of feeding.
        layers: statistics by tensor index.
        pairs: tensor of the reference by tensor of the file.
        failure: why the file did not run, or "".
    """

    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    pixel_ranges: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    matrix: np.ndarray | None = None
    images: int = 0
    holding: np.ndarray | None = None
    constant_images: int = 0
    views: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    view_contracts: dict[str, ModelContract] = dataclasses.field(default_factory=dict)
    layers: dict[int, LayerStatistics] = dataclasses.field(default_factory=dict)
    pairs: dict[int, int] = dataclasses.field(default_factory=dict)
    failure: str = ""


def observe(case: Case, effort: Effort) -> Observations:
    """Runs the file in child processes.

    Args:
        case: the file.
        effort: how much is run.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read, or the reference does not run.
    """
    seen = Observations()
    if case.reference_graph is not None:
        seen.pairs = pair_tensors(case.graph, case.reference_graph)
    if case.dataset is None or case.dataset.channels != case.contract.channels:
        return seen
    count = min(effort.limit or len(case.dataset), len(case.dataset))
    chosen = np.unique(np.linspace(0, count - 1, effort.sample).astype(int))
    photos = Subset(case.dataset, tuple(chosen.tolist()), split=case.dataset.split)
    views = all_views(case, photos)
    _check_reference_runs(case, photos)
    with (
        scratch_folder("diagnose") as scratch,
        InterpreterPool([view.contract for view in views], effort.processes) as pool,
    ):
        _measure_tensors(case, photos, pool=pool, seen=seen)
        if not case.truth_obstacle() and not pool.broken:
            _score(
                case,
                count,
                chosen=chosen,
                views=views,
                pool=pool,
                scratch=scratch,
                seen=seen,
            )
        seen.failure = pool.broken.get(0, "")
    return seen


def _check_reference_runs(case: Case, photos: Subset) -> None:
    """Runs the reference once, so that its failure is not reported as the model's.

    Raises:
        ValueError: the reference does not run.
    """
    if case.reference is None:
        return
    canvas, _ = place(photos.image(0), (case.reference.height, case.reference.width))
    with InterpreterPool([case.reference], 1) as pool:
        for outcome in pool.run([Task(0, real_output, arguments=(canvas,))]):
            if outcome.failure:
                raise ValueError(f"--reference {case.reference.path}: {outcome.failure}")


def _measure_tensors(
    case: Case, photos: Subset, *, pool: InterpreterPool, seen: Observations
) -> None:
    def tasks() -> Iterator[Task]:
        for index in range(len(photos)):
            photo = photos.image(index)
            seen.sizes.append((photo.shape[0], photo.shape[1]))
            seen.pixel_ranges.append((int(photo.min()), int(photo.max())))
            canvas, _ = place(photo, (case.contract.height, case.contract.width))
            yield Task(0, measure_layers, arguments=(canvas, case.reference, seen.pairs))

    for outcome in pool.run(tasks()):
        if outcome.failure:
            continue
        found: dict[int, LayerStatistics] = outcome.value
        for index, statistics in found.items():
            if index in seen.layers:
                seen.layers[index].add(statistics)
            else:
                seen.layers[index] = statistics


def _score(
    case: Case,
    count: int,
    *,
    chosen: np.ndarray,
    views: list[View],
    pool: InterpreterPool,
    scratch: pathlib.Path,
    seen: Observations,
) -> None:
    """Scores the declared feeding on the whole list, the others on the sample."""
    for number, view in enumerate(views):
        seen.view_contracts[view.name] = view.contract
        # One result per contract of the pool; the others are skipped here.
        results = [ModelResult(other.contract, failure="another view") for other in views]
        results[number].failure = ""
        whole = view.name == DECLARED
        dataset, images = (case.dataset, count) if whole else (view.dataset, len(view.dataset))
        score_list(
            results,
            dataset,  # type: ignore[arg-type]
            count=images,
            pool=pool,
            scratch=scratch,
            reference=None,
            options=ScoringOptions(keep_images=True),
        )
        result = results[number]
        if result.matrix is None or result.image_matrices is None:
            continue
        if whole:
            seen.matrix, seen.images = result.matrix, result.images
            seen.holding = (result.image_matrices.sum(2) > 0).sum(0)
            seen.constant_images = result.constant_images
        seen.views[view.name] = result.image_matrices[chosen if whole else slice(None)]

"""Reads the results of a study's cells from their folders, and compares them.

`StudyReport.document()` is `study_results.json`; page and CSV are made only from it.
"""

import dataclasses
import math
import pathlib

import numpy as np

from deeplab_tf import bounded_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics.bootstrap import Interval, simultaneous_differences
from deeplab_tf.metrics.confusion import notes_on_means
from deeplab_tf.metrics.overlap import as_matrices, iou_from_counts, mean_iou_change, overlap
from study.report.curves import Curve, count_parameters, read_losses, read_validations
from study.report.matrices import read_matrices
from study.report.timing import TimingOptions, time_files
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult
from tflite_tools.evaluation.tables import result_to_json
from tflite_tools.html_report.collect import FileReport, processor
from tflite_tools.versions import versions

_LEFT_OUT = ("confusion_matrix", "model")
"""Values of a file that the document leaves out: the matrices are in the cell's folder, the name is
the cell's."""


@dataclasses.dataclass(frozen=True)
class StudyScope:
    """The cells of a study and what they are compared on.

    Attributes:
        name: of the study.
        folder: of the study; cells are in `cells/<name>`.
        axes: {axis: {value: flags}} in the order of the study file.
        train: flags that all trainings share.
        cells: {name: {axis: value}} in the order in which they run.
        variants: of the files; the others are compared with the first.
        dataset: the list that all cells were scored on.
        options: of the scoring; `mean_over` and `limit` are used.
        command: command line that makes the page again.
    """

    name: str
    folder: pathlib.Path
    axes: dict[str, dict[str, dict]]
    train: dict
    cells: dict[str, dict[str, str]]
    variants: tuple[str, ...]
    dataset: SegmentationDataset
    options: EvaluationOptions
    command: str


@dataclasses.dataclass
class CellReport:
    """One cell.

    Attributes:
        name: of the cell.
        choice: {axis: value} of the cell.
        record: `cell.json`, or {} where the cell was never started.
        files: {variant: file} of the files that were scored.
        faults: what could not be read, one line each.
        losses: {phase: curve} of the training loss.
        validations: {phase: curve} of the validation mIoU.
        parameters: how many values are trained, or None.
    """

    name: str
    choice: dict[str, str]
    record: dict
    files: dict[str, FileReport] = dataclasses.field(default_factory=dict)
    faults: list[str] = dataclasses.field(default_factory=list)
    losses: dict[str, Curve] = dataclasses.field(default_factory=dict)
    validations: dict[str, Curve] = dataclasses.field(default_factory=dict)
    parameters: int | None = None

    @property
    def state(self) -> str:
        """Its progress, a value of `CellState`."""
        return self.record.get("state", "waiting")

    def seconds(self, stage: str) -> float | None:
        """Returns the wall time of a stage over all its starts; None if it never started."""
        known = self.record.get("stages", {}).get(stage)
        return known and known["seconds"]


@dataclasses.dataclass(frozen=True)
class StudyReport:
    """All cells of a study, compared on one list.

    Attributes:
        scope: of the comparison.
        cells: in the order in which they run.
    """

    scope: StudyScope
    cells: list[CellReport]

    @property
    def ranked(self) -> list[CellReport]:
        """Cells with a scored reference file, the best first.

        They are ranked by mIoU over the classes that all of them count: over its own classes, a
        cell would lose points for one pixel of a class that no image holds.
        """
        reference = self.scope.variants[0]
        scored = [cell for cell in self.cells if reference in cell.files]
        totals = [_totals(cell.files[reference]) for cell in scored]
        chosen = self.scope.options.mean_indices(self.scope.dataset)
        ious = [iou_from_counts(total) for total in totals]
        counted = np.all([np.isfinite(iou) for iou in ious], axis=0) if ious else np.array([])
        both = [index for index in chosen or range(len(counted)) if counted[index]]
        scores = [float(iou[both].mean()) if both else -1.0 for iou in ious]
        order = sorted(range(len(scored)), key=lambda index: -scores[index])
        return [scored[index] for index in order]

    def interval(self, file: FileReport) -> Interval | None:
        """Computes the mIoU of a file with its interval over images.

        A file that finds nothing scores 0 on every resampled list that holds the class, so the
        difference from it is the score, and its interval is that of the score.

        Args:
            file: the scored file.

        Returns:
            the interval, whose `difference` is the mIoU; None without a class.
        """
        assert file.overlap is not None
        nothing = file.overlap.copy()
        nothing[..., 0] = 0
        return self._change(nothing, file.overlap)

    def _change(self, first: np.ndarray, second: np.ndarray) -> Interval | None:
        chosen = self.scope.options.mean_indices(self.scope.dataset)
        dependence = self.scope.options.dependence(self.scope.dataset, len(first))
        return mean_iou_change(first, second, dependence=dependence, classes=chosen)

    def change(self, first: FileReport, second: FileReport) -> Interval | None:
        """Computes the paired change of mIoU between two files over the classes that both count.

        Args:
            first: the file to compare with.
            second: the other file.

        Returns:
            second less first with its interval; None if they were scored on different images.
        """
        if first is second or first.overlap is None or second.overlap is None:
            return None
        if first.overlap.shape != second.overlap.shape:
            return None
        return self._change(first.overlap, second.overlap)

    def document(self) -> dict:
        """Returns the report as plain values; unknown ones are None."""
        scope, ranked, behind = self.scope, self.ranked, self.changes_from_best()
        names, colors = scope.dataset.label_set.names, scope.dataset.label_set.colors
        return {
            "study": scope.name,
            "dataset": scope.dataset.name,
            "split": scope.dataset.split,
            "images": max(
                (f.result.images for c in self.cells for f in c.files.values()), default=0
            ),
            "mean_over": list(scope.options.mean_over),
            "classes": [{"name": n, "color": c} for n, c in zip(names, colors, strict=True)],
            "notes": self._notes(),
            "axes": scope.axes,
            "train": scope.train,
            "variants": list(scope.variants),
            "best": ranked[0].name if ranked else None,
            "worst": ranked[-1].name if len(ranked) > 1 else None,
            "command": scope.command,
            "versions": versions() | {"processor": processor()},
            "cells": [
                self._cell(number, cell, behind=behind) for number, cell in enumerate(self.cells, 1)
            ],
        }

    def _notes(self) -> list[str]:
        """Says where the reference files' mIoU are over different classes."""
        reference, dataset = self.scope.variants[0], self.scope.dataset
        matrices = {
            cell.name: cell.files[reference].result.matrix
            for cell in self.cells
            if reference in cell.files
        }
        return notes_on_means(
            {name: matrix for name, matrix in matrices.items() if matrix is not None},
            dataset.label_set.names,
            classes=self.scope.options.mean_indices(dataset),
        )

    def _cell(self, number: int, cell: CellReport, *, behind: dict[str, Interval]) -> dict:
        last = [curve[-1] for curve in cell.losses.values()]
        threads = cell.record.get("stages", {}).get("train", {}).get("threads")
        return {
            "number": number,
            "name": cell.name,
            "choice": cell.choice,
            "state": cell.state,
            "failure": "; ".join(filter(None, [cell.record.get("failure", ""), *cell.faults])),
            "parameters": cell.parameters,
            "train_loss": last[-1][1] if last else None,
            "train_steps": last[-1][0] if last else None,
            "train_threads": threads,
            "seconds": {stage: cell.seconds(stage) for stage in ("train", "export", "evaluate")},
            "losses": cell.losses,
            "validations": cell.validations,
            "files": {
                variant: self._file(cell, cell.files[variant], behind=behind)
                for variant in self.scope.variants
                if variant in cell.files
            },
        }

    def changes_from_best(self) -> dict[str, Interval]:
        """Compares every cell's reference file with that of the best cell.

        The best was found on the same list: the intervals are widened to hold all at once.

        Returns:
            {cell: its mIoU less that of the best}, of cells scored on the same images.
        """
        reference, ranked = self.scope.variants[0], self.ranked
        overlaps = {cell.name: cell.files[reference].overlap for cell in ranked}
        best = overlaps.pop(ranked[0].name) if ranked else None
        if best is None:
            return {}
        others = {
            name: as_matrices(overlap)
            for name, overlap in overlaps.items()
            if overlap is not None and overlap.shape == best.shape
        }
        changes = simultaneous_differences(
            as_matrices(best),
            list(others.values()),
            dependence=self.scope.options.dependence(self.scope.dataset, len(best)),
            classes=self.scope.options.mean_indices(self.scope.dataset),
        )
        return {
            name: change
            for name, change in zip(others, changes, strict=True)
            if math.isfinite(change.difference)
        }

    def _file(self, cell: CellReport, file: FileReport, *, behind: dict[str, Interval]) -> dict:
        values = result_to_json(file.result, self.scope.dataset, options=self.scope.options)
        values = {key: value for key, value in values.items() if key not in _LEFT_OUT}
        reference = self.scope.variants[0]
        base = cell.files.get(reference)
        interval = self.interval(file)
        change = self.change(base, file) if base else None
        return values | {
            "miou_low": interval.low if interval else None,
            "miou_high": interval.high if interval else None,
            "resampled": interval.unit if interval else None,
            "miou_change": _plain(change),
            "from_best": _plain(behind.get(cell.name)) if file is base else None,
        }


def collect_study(scope: StudyScope, timing: TimingOptions) -> StudyReport:
    """Reads all cells and times all their files in one interleaved run.

    Args:
        scope: of the comparison.
        timing: how files are timed.

    Returns:
        the report.

    Raises:
        ValueError: `cell.json` of a cell is damaged; the data set cannot be read.
    """
    cells = [_read_cell(scope, name, choice=choice) for name, choice in scope.cells.items()]
    files = [file for cell in cells for file in cell.files.values()]
    if files and timing.repeats:
        contracts = [file.contract for file in files]
        times = time_files(
            contracts, scope.dataset.image(0), options=timing, kept=scope.folder / "latency.json"
        )
        for file, latency in zip(files, times, strict=True):
            file.result.latency = latency
    return StudyReport(scope, cells)


def _read_cell(scope: StudyScope, name: str, *, choice: dict[str, str]) -> CellReport:
    folder = scope.folder / "cells" / name
    cell = CellReport(name, choice, record=_read_record(folder / "cell.json"))
    run_dir = folder / "run"
    cell.losses, cell.validations = read_losses(run_dir), read_validations(run_dir)
    try:
        cell.parameters = count_parameters(run_dir)
        cell.files = _read_files(scope, cell, folder=folder)
    except (ValueError, OSError) as error:
        cell.faults.append(" ".join(str(error).split()))
    return cell


def _read_record(path: pathlib.Path) -> dict:
    if not path.is_file():
        return {}
    with bounded_file.read_as(path, "the record of a cell; delete it"):
        values = bounded_file.read_json(path)
        if not isinstance(values, dict):
            raise ValueError(f"expected an object, got {values!r:.80}")
        return values


def _read_files(
    scope: StudyScope, cell: CellReport, *, folder: pathlib.Path
) -> dict[str, FileReport]:
    """Reads the scored files by variant; those that failed are added to the faults."""
    metrics = folder / "evaluation" / "metrics.json"
    if not metrics.is_file():
        return {}
    matrices = read_matrices(metrics.parent)
    files = {}
    for values in _read_record(metrics)["models"]:
        if values["failure"]:
            cell.faults.append(f"{values['file']}: {values['failure']}")
        elif values["variant"] in scope.variants:
            path = folder / "run" / "tflite" / values["file"]
            files[values["variant"]] = _file_report(path, values, matrices=matrices[values["file"]])
    return files


def _file_report(path: pathlib.Path, values: dict, *, matrices: np.ndarray) -> FileReport:
    result = ModelResult(
        read_contract(path, None, name=values["variant"]),
        images=len(matrices),
        matrix=matrices.sum(0, dtype=np.int64),
        image_matrices=matrices,
        agreement=values["agreement"],
        mean_loss=values.get("mean_loss"),
        constant_images=values["constant_images"],
        memory_mb=values["memory_mb"],
        warnings=list(values["warnings"]),
    )
    return FileReport(result, None, overlap=overlap(matrices))


def _totals(file: FileReport) -> np.ndarray:
    """Intersection and union of each class over all images, int64 [num_classes, 2]."""
    assert file.overlap is not None
    return file.overlap.sum(0)


def _plain(interval: Interval | None) -> dict | None:
    return None if interval is None else interval.to_json()

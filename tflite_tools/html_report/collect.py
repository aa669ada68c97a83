"""Measures the content of a report: scores, intervals, boundaries, sources.

`Report.document()` is `metrics.json`, and the page is drawn only from that document, so both have
the same numbers.
"""

import dataclasses
import importlib.metadata
import math
import pathlib
import platform

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics.bootstrap import Interval, common_classes
from deeplab_tf.metrics.overlap import as_matrices, iou_from_counts, mean_iou_change, overlap
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.boundaries import count_boundaries
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, evaluate
from tflite_tools.evaluation.tables import kernels_line, notes_on_scores, result_to_json
from tflite_tools.file_list import UnreadFile, unread_json
from tflite_tools.json_values import finite
from tflite_tools.manifest import Manifest, read_manifest
from tflite_tools.versions import versions

_PACKAGES = ("jinja2", "matplotlib", "scipy")


@dataclasses.dataclass
class FileReport:
    """One file.

    Attributes:
        result: of the evaluation, with the matrix of every photo.
        manifest: next to the file, or None.
        overlap: int64 [photos, num_classes, 2], intersection and union of each class; None for
            a file that failed.
        boundary: the same for the bands along the contours, or None.
    """

    result: ModelResult
    manifest: Manifest | None
    overlap: np.ndarray | None = None
    boundary: np.ndarray | None = None

    @property
    def contract(self) -> ModelContract:
        """Contract of the file."""
        return self.result.contract

    @property
    def name(self) -> str:
        """Name of the file in tables."""
        return self.result.contract.name


@dataclasses.dataclass(frozen=True)
class Report:
    """All files on one list.

    Attributes:
        dataset: the list.
        options: how the files were run.
        files: in the order of the tables.
        reference: index of the file that the others are compared with, or None.
        command: command line that writes the report.
        unread: files of the list that could not be read.
        phones: of `read_phones`.
    """

    dataset: SegmentationDataset
    options: EvaluationOptions
    files: list[FileReport]
    reference: int | None
    command: str
    unread: tuple[UnreadFile, ...] = ()
    phones: tuple[dict, ...] = ()

    @property
    def base(self) -> FileReport | None:
        """The reference, if it ran."""
        if self.reference is None or self.files[self.reference].overlap is None:
            return None
        return self.files[self.reference]

    @property
    def scored(self) -> list[FileReport]:
        """Files with scores."""
        return [file for file in self.files if file.overlap is not None]

    def document(self) -> dict:
        """Returns the report as plain values; unknown ones are None."""
        base = self.base
        images = max((file.result.images for file in self.files), default=0)
        values = {
            "dataset": self.dataset.name,
            "split": self.dataset.split,
            "images": images,
            "reference": base.name if base else None,
            "options": vars(self.options),
            "command": self.command,
            "kernels": kernels_line([file.result for file in self.scored]),
            "versions": versions()
            | {name: importlib.metadata.version(name) for name in _PACKAGES}
            | {"processor": processor()},
            "notes": notes_on_scores(
                [file.result for file in self.files],
                self.dataset,
                options=self.options,
                reference=self.reference,
            ),
            "classes": self._classes(),
            "models": [self._file(file) for file in self.files],
            "unread": unread_json(list(self.unread)),
            "phones": list(self.phones),
        }
        return finite(values)

    def _classes(self) -> list[dict]:
        names, colors = self.dataset.label_set.names, self.dataset.label_set.colors
        pixels = photos = np.zeros(len(names), np.int64)
        if self.scored:
            matrices = self.scored[0].result.image_matrices
            assert matrices is not None
            truth = matrices.sum(2, dtype=np.int64)
            pixels, photos = truth.sum(0), (truth > 0).sum(0)
        return [
            {"name": name, "color": color, "truth_pixels": int(p), "images": int(i)}
            for name, color, p, i in zip(names, colors, pixels, photos, strict=True)
        ]

    def _file(self, file: FileReport) -> dict:
        manifest = file.manifest
        values = result_to_json(file.result, self.dataset, options=self.options) | {
            "head": manifest.head if manifest else None,
            "source": manifest.source if manifest else None,
            "sha256": manifest.sha256 if manifest else None,
            "calibration": manifest.calibration if manifest else None,
            "quantization": manifest.quantization if manifest else None,
            "made_with": manifest.versions if manifest else None,
        }
        if file.overlap is None:
            return values
        chosen = self.options.mean_indices(self.dataset)
        names = self.dataset.label_set.names
        values |= self._changes(file, chosen)
        if file.boundary is not None:
            iou = iou_from_counts(file.boundary.sum(0))
            values["boundary_miou"] = _mean(iou[list(chosen)] if chosen else iou)
            values["boundary_iou"] = dict(zip(names, iou.tolist(), strict=True))
        return values

    def _changes(self, file: FileReport, chosen: tuple[int, ...]) -> dict:
        """Returns differences from the reference, with intervals, over classes that both count."""
        base = self.base
        if base is None or file is base or base.overlap is None or file.overlap is None:
            return {}
        names = self.dataset.label_set.names
        dependence = self.options.dependence(self.dataset, len(base.overlap))
        both = common_classes(as_matrices(base.overlap), as_matrices(file.overlap), classes=chosen)
        values: dict = {
            "miou_change": _plain(
                mean_iou_change(base.overlap, file.overlap, dependence=dependence, classes=chosen)
            ),
            "changed_over": [names[index] for index in both],
            "iou_change": {
                name: _plain(
                    mean_iou_change(
                        base.overlap[:, c : c + 1],
                        file.overlap[:, c : c + 1],
                        dependence=dependence,
                        classes=(0,),
                    )
                )
                for c, name in enumerate(names)
            },
        }
        if base.boundary is not None and file.boundary is not None:
            change = mean_iou_change(
                base.boundary, file.boundary, dependence=dependence, classes=chosen
            )
            values["boundary_miou_change"] = _plain(change)
        return values


def collect(
    contracts: list[ModelContract],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    reference: int | None,
    command: str,
    unread: tuple[UnreadFile, ...] = (),
    phones: tuple[dict, ...] = (),
) -> Report:
    """Runs all files on the list: once for the scores, once for the boundaries.

    Args:
        contracts: the files.
        dataset: the list.
        options: how the files are run.
        reference: index of the file that the others are compared with, or None.
        command: command line that writes the report.
        unread: files that could not be read.
        phones: of `read_phones`.

    Raises:
        FileNotFoundError: a sample does not exist.
        ValueError: a sample cannot be read.
    """
    options = dataclasses.replace(options, keep_images=True)
    results = evaluate(contracts, dataset, options=options, reference=reference)
    files = [FileReport(result, read_manifest(result.contract.path)) for result in results]
    scored = [file for file in files if not file.result.failure and file.result.matrix is not None]
    for file in scored:
        assert file.result.image_matrices is not None
        file.overlap = overlap(file.result.image_matrices)
    count = min(options.limit or len(dataset), len(dataset))
    counts, failures = count_boundaries(
        [file.contract for file in scored], dataset, count=count, processes=options.processes
    )
    for index, file in enumerate(scored):
        file.boundary = counts.get(index)
        if index in failures:
            file.result.warnings.append(f"no boundary IoU: {failures[index]}")
    return Report(
        dataset,
        options,
        files=files,
        reference=reference,
        command=command,
        unread=unread,
        phones=phones,
    )


def processor() -> str:
    """Returns the name of this machine's processor."""
    listing = pathlib.Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _plain(interval: Interval | None) -> dict | None:
    return None if interval is None else interval.to_json()


def _mean(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else math.nan

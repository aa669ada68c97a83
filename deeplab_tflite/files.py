"""Functions that read and run `.tflite` files. TensorFlow is not started."""

import base64
import contextlib
import dataclasses
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import open_dataset as _open_dataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval
from deeplab_tflite.table import Table
from tflite_tools.diagnosis import diagnosis as checks
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.finding import Finding
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.evaluation.differences import difference_from
from tflite_tools.evaluation.evaluation import (
    EvaluationOptions,
    ModelResult,
    default_processes,
)
from tflite_tools.evaluation.request import Evaluation, EvaluationRequest, evaluate_request
from tflite_tools.evaluation.tables import notes_on_scores
from tflite_tools.segmentation.comparison import Drawn
from tflite_tools.segmentation.models import Reading, open_models, without_normalization
from tflite_tools.segmentation.segmentation import (
    Segmentation,
    SegmentationOptions,
    segmented,
    with_legend,
)
from tflite_tools.segmentation.sources import open_source

Path = str | os.PathLike[str]
"""Of a file or folder; results that stand for one are paths, too."""
_SHOWN = 4
"""Pictures that a notebook shows."""


def paths(files: Path | Sequence[Path]) -> list[pathlib.Path]:
    """Returns one path, or each of several, as `pathlib.Path`."""
    if isinstance(files, str | os.PathLike):
        return [pathlib.Path(files)]
    return [pathlib.Path(file) for file in files]


def open_dataset(name: str, data_dir: Path = "", *, split: str = "val") -> SegmentationDataset:
    """Opens a labelled list, by default the one that results are reported on.

    Args:
        name: of the data set, such as "folder", "voc" or "synthetic".
        data_dir: its folder; not used for drawn scenes.
        split: name of the list.

    Returns:
        the list, whose `read(index)` gives an image and its label map.

    Raises:
        FileNotFoundError: the folder or the list is missing.
        ValueError: unknown data set or split, or an empty split.
    """
    return _open_dataset(name, os.fspath(data_dir), split=split)


@dataclasses.dataclass(frozen=True, repr=False)
class Scores(Table):
    """Scores of files on a labelled list.

    Attributes:
        evaluation: results, list and options.
    """

    evaluation: Evaluation

    def __getitem__(self, name: str) -> ModelResult:
        """Returns the result of a file by its name in the table."""
        known = {result.contract.name: result for result in self.evaluation.results}
        if name not in known:
            raise KeyError(f"no file {name!r}; there are {', '.join(known)}")
        return known[name]

    def miou(self, name: str) -> float | None:
        """Returns the mIoU of a file, a fraction; None where it failed.

        Args:
            name: of the file in the table.
        """
        return self._miou(self[name])

    def iou(self, name: str) -> dict[str, float | None]:
        """Returns the IoU of each class, fractions; None for one that does not occur.

        Args:
            name: of the file in the table.
        """
        matrix, classes = self[name].matrix, self.evaluation.dataset.label_set.names
        if matrix is None:
            return dict.fromkeys(classes)
        values = confusion.iou_per_class(matrix).tolist()
        return {k: v if v == v else None for k, v in zip(classes, values, strict=True)}

    def difference(self, name: str) -> Interval | None:
        """Returns how much the mIoU of a file lies above the reference's, with its interval.

        Args:
            name: of the file in the table.

        Returns:
            the difference, a fraction; None without a reference, or where a score is missing.
        """
        position, result = self.evaluation.reference, self[name]
        if position is None or self.evaluation.results[position] is result:
            return None
        base, options = self.evaluation.results[position], self.evaluation.options
        dataset = self.evaluation.dataset
        found, _ = difference_from(
            base,
            result,
            classes=options.mean_indices(dataset),
            dependence=options.dependence(dataset, base.images),
        )
        return found

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per file; mIoU, difference and agreement in percent."""
        rows = [self._row(result) for result in self.evaluation.results]
        empty = dict.fromkeys(rows[0]) if rows else {}
        unread = [
            {**empty, "file": file.name, "failure": file.failure} for file in self.evaluation.unread
        ]
        return rows + unread

    def notes(self) -> list[str]:
        """Returns the list that was scored, and what the numbers do not say themselves."""
        evaluation = self.evaluation
        images = max((result.images for result in evaluation.results), default=0)
        return [
            f"{evaluation.dataset.name}, split {evaluation.dataset.split}, {images} images; "
            "intervals of 95 %",
            *notes_on_scores(
                evaluation.results,
                evaluation.dataset,
                options=evaluation.options,
                reference=evaluation.reference,
            ),
            *(
                f"{result.contract.name}: {line}"
                for result in evaluation.results
                for line in result.warnings
            ),
        ]

    def _miou(self, result: ModelResult) -> float | None:
        if result.matrix is None or result.failure:
            return None
        mean_over = self.evaluation.options.mean_indices(self.evaluation.dataset)
        return confusion.mean_iou(result.matrix, mean_over)[0]

    def _row(self, result: ModelResult) -> dict[str, Any]:
        contract, change = result.contract, self.difference(result.contract.name)
        return {
            "file": contract.name,
            "miou_percent": _percent(self._miou(result)),
            "difference": _percent(change.difference if change else None),
            "low": _percent(change.low if change else None),
            "high": _percent(change.high if change else None),
            "agreement_percent": _percent(result.agreement),
            "size_mb": contract.size_bytes / 1e6,
            "latency_ms": result.latency.median if result.latency else None,
            "memory_mb": result.memory_mb,
            "failure": result.failure or None,
        }


def _percent(value: float | None) -> float | None:
    return None if value is None or value != value else 100 * value


def evaluate(
    files: Path | Sequence[Path],
    dataset: SegmentationDataset,
    *,
    reference: Path | None = None,
    preprocessing: Preprocessing | None = None,
    options: EvaluationOptions | None = None,
) -> Scores:
    """Scores `.tflite` files on a labelled list, as `tflite_tools.evaluate` does.

    Args:
        files: the files.
        dataset: of `open_dataset`.
        reference: file that differences and agreement are counted from; None for the one of
            variant float32.
        preprocessing: pixel normalization; None for each file's own.
        options: how the files are run; None for all samples and 30 timed runs.

    Returns:
        the scores; a file that cannot be read or run has a row with its failure.

    Raises:
        FileNotFoundError: a file or a sample does not exist.
        ValueError: no file can be read, a sample cannot, or settings do not fit together.
    """
    options = options or EvaluationOptions(processes=default_processes())
    request = EvaluationRequest(
        models=tuple(paths(files)),
        reference=pathlib.Path(reference) if reference else None,
        dataset=dataset,
        preprocessing=preprocessing,
        options=dataclasses.replace(options, keep_images=True),  # intervals need them
    )
    return Scores(evaluate_request(request))


@dataclasses.dataclass(frozen=True, repr=False)
class Masks(Table):
    """Masks of pictures.

    Attributes:
        segmentation: the files, and the numbers of each picture.
        drawn: for each picture, the mask and the overlay of each file that did not fail.
    """

    segmentation: Segmentation
    drawn: list[list[Drawn]]

    @property
    def mask(self) -> np.ndarray:
        """Class numbers of the first picture and file, unsigned [height, width]."""
        return self.drawn[0][0].mask

    def overlay(self, picture: int = 0, file: int = 0) -> Image.Image:
        """Returns a picture tinted by class, with a legend.

        Args:
            picture: its number.
            file: number of the file.
        """
        return Image.fromarray(with_legend(self.drawn[picture][file]))

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per picture, file and class that occurs, with its share in percent."""
        return [
            {
                "picture": picture.name,
                "file": file,
                "class": name,
                "share_percent": 100 * share,
                "ms": picture.ms[file],
            }
            for picture in self.segmentation.pictures
            for file, shares in picture.shares.items()
            for name, share in shares.items()
        ]

    def notes(self) -> list[str]:
        """Returns why a file or a photo gave nothing."""
        return list(self.segmentation.failures)

    def _repr_html_(self) -> str:
        shown = [
            _image_tag(self.overlay(number, file))
            for number, drawn in enumerate(self.drawn[:_SHOWN])
            for file in range(len(drawn))
        ]
        return "\n".join([*shown, super()._repr_html_()])


def _image_tag(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=88)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return f'<img src="data:image/jpeg;base64,{data}" alt="overlay of the mask">'


def segment(
    files: Path | Sequence[Path],
    photo: Path,
    *,
    preprocessing: Preprocessing | None = None,
    output: str = "",
    labels: Sequence[str] = (),
    options: SegmentationOptions | None = None,
) -> Masks:
    """Segments a photo, or each photo of a folder, as `tflite_tools.segment` does; no labels.

    All masks are held in memory. Nothing is written: that command writes files, and reads videos.

    Args:
        files: the `.tflite` files.
        photo: a photo, or a folder of photos.
        preprocessing: pixel normalization; of several files, for those that state none.
        output: name or number of the output to read, of files with several.
        labels: class names; () for the file's own.
        options: how photos are segmented and drawn; its `output_dir` is not used.

    Returns:
        the masks, which a notebook shows as overlays.

    Raises:
        FileNotFoundError: a file or the photo does not exist.
        RuntimeError: every file fails.
        ValueError: a file or the photo cannot be read, or nothing states how pixels are
            normalized.
    """
    models, unread = open_models(paths(files), Reading(preprocessing, output, names=tuple(labels)))
    if unknown := without_normalization(models):
        raise ValueError(
            f"{unknown.contract.path}: neither a manifest nor the file states how its input is "
            "normalized; give preprocessing=Preprocessing(mean, std)"
        )
    options = options or SegmentationOptions(processes=default_processes())
    result = Segmentation(models, failures=[f"{file.name}: {file.failure}" for file in unread])
    with contextlib.closing(open_source(os.fspath(photo))) as source:
        if source.is_video:
            raise ValueError(f"{photo}: is a video; python -m tflite_tools.segment reads videos")
        source.with_fourth = any(model.contract.channels == 4 for model in models)
        return Masks(result, [drawn for _, drawn in segmented(result, source, options=options)])


@dataclasses.dataclass(frozen=True, repr=False)
class Findings(Table):
    """What is wrong with a file.

    Attributes:
        diagnosis: findings and skipped checks.
    """

    diagnosis: checks.Diagnosis

    @property
    def problems(self) -> list[Finding]:
        """Findings that make masks wrong or a device fail."""
        return self.diagnosis.problems

    def rows(self) -> list[dict[str, Any]]:
        """Returns one row per finding, problems first."""
        return [
            {
                "severity": finding.severity.value,
                "name": finding.name,
                "evidence": finding.evidence,
                "cure": finding.cure,
            }
            for finding in self.diagnosis.findings
        ]

    def notes(self) -> list[str]:
        """Returns how much was checked."""
        found = self.diagnosis
        return [
            f"{len(found.problems)} problem(s), {len(found.warnings)} warning(s); {found.ran} "
            f"checks ran, {len(found.skipped)} skipped; masks of {found.images} photos"
        ]


def diagnose(
    file: Path,
    dataset: SegmentationDataset | None = None,
    *,
    reference: Path | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Path | None = None,
    limit: int = 0,
    sample: int = 8,
) -> Findings:
    """Finds what is wrong with a `.tflite` file, as `tflite_tools.diagnose` does.

    Args:
        file: the file.
        dataset: labelled photos; None: the graph alone is checked.
        reference: float file of the same network, for a comparison layer by layer.
        preprocessing: pixel normalization; None for the file's own.
        labels: list of class names to judge, one per line; None for the file's own.
        limit: only the first so many photos; 0 for all.
        sample: photos for other ways of feeding and for inner tensors.

    Returns:
        problems and warnings, each with its evidence and cure.

    Raises:
        FileNotFoundError: a file or a sample does not exist.
        ValueError: a file is damaged or no segmentation model, or a sample cannot be read.
    """
    case = open_case(
        pathlib.Path(file),
        preprocessing,
        labels=pathlib.Path(labels) if labels else None,
        reference=pathlib.Path(reference) if reference else None,
        dataset=dataset,
    )
    effort = Effort(limit, sample, processes=default_processes())
    return Findings(checks.diagnose(case, effort))

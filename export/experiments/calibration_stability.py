"""Checks whether a calibration set is large enough: two disjoint sets must give the same mIoU."""

import dataclasses
import pathlib
import tempfile

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset, Subset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval, common_classes, miou_difference
from deeplab_tf.quantization.ptq.post_training import PostTraining
from export.conversion.calibration import disjoint_samples
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.source import Source
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes, evaluate


@dataclasses.dataclass(frozen=True)
class CalibrationCheckPlan:
    """What to check.

    Attributes:
        source: a float network.
        height: of its input.
        width: of its input.
        preprocessing: normalization of its input.
        label_set: of its classes.
        dataset: list that all images come from; never the one that results are reported on.
        calibration_images: how many in each of the two sets.
        score_images: how many other images of the list both files are scored on.
        seed: of the choice of images.
        bound: largest difference in mIoU, fraction.
        steps: post-training steps, or None for the converter's own calibration.
    """

    source: Source
    height: int
    width: int
    preprocessing: Preprocessing
    label_set: LabelSet
    dataset: SegmentationDataset
    calibration_images: int
    score_images: int
    seed: int
    bound: float
    steps: PostTraining | None = None

    def __post_init__(self) -> None:
        if min(self.calibration_images, self.score_images) < 1:
            raise ValueError(
                "calibration_images and score_images must be at least 1, got "
                f"{self.calibration_images} and {self.score_images}"
            )
        if not 0 < self.bound < 1:
            raise ValueError(
                f"bound: expected a fraction of mIoU above 0 and below 1, got {self.bound}"
            )


@dataclasses.dataclass(frozen=True)
class CalibrationStability:
    """The result of a check.

    Attributes:
        mious: of the two files, fractions, over the classes that both count.
        difference: second less first, with its bootstrap interval over the scored images.
        bound: largest difference that counts as stable.
        calibration_images: how many in each of the two sets.
        score_images: how many both files were scored on.
    """

    mious: tuple[float, float]
    difference: Interval
    bound: float
    calibration_images: int
    score_images: int

    @property
    def stable(self) -> bool:
        """Whether the difference is within the bound."""
        return abs(self.difference.difference) <= self.bound

    def lines(self) -> list[str]:
        """Returns the result as text, with a remedy where it is not stable."""
        first, second = (100 * value for value in self.mious)
        change = self.difference
        text = [
            f"two disjoint sets of {self.calibration_images} images: mIoU {first:.2f} and "
            f"{second:.2f} % on {self.score_images} other images",
            f"difference {100 * change.difference:+.2f}, 95 % interval {100 * change.low:+.2f} to "
            f"{100 * change.high:+.2f}, bound {100 * self.bound:.2f}",
        ]
        if not self.stable:
            text.append(
                f"NOT STABLE: {self.calibration_images} calibration images are too few; try "
                f"{2 * self.calibration_images}, or --activation_ranges=mse"
            )
        return text


def check_calibration(plan: CalibrationCheckPlan) -> CalibrationStability:
    """Calibrates two int8 files on disjoint images and scores both.

    Args:
        plan: what to check.

    Returns:
        the two scores and their difference.

    Raises:
        ValueError: the list is too short.
        RuntimeError: a file could not be made.
    """
    sizes = (plan.calibration_images, plan.calibration_images, plan.score_images)
    *sets, scored = disjoint_samples(plan.dataset, sizes, seed=plan.seed)
    with tempfile.TemporaryDirectory(prefix="stability-") as scratch:
        contracts = [
            read_contract(
                _file(plan, chosen, folder=pathlib.Path(scratch) / str(number)),
                None,
                name=f"{number}",
            )
            for number, chosen in enumerate(sets)
        ]
        options = EvaluationOptions(
            processes=default_processes(), latency_repeats=0, keep_images=True
        )
        results = evaluate(
            contracts,
            Subset(plan.dataset, tuple(scored), split="scored"),
            options=options,
            reference=0,
        )
    for result in results:
        if result.failure or result.matrix is None:
            raise RuntimeError(result.failure)
    first, second = (np.asarray(result.image_matrices) for result in results)
    return compare_files(
        first, second, bound=plan.bound, calibration_images=plan.calibration_images
    )


def compare_files(
    first: np.ndarray, second: np.ndarray, *, bound: float, calibration_images: int
) -> CalibrationStability:
    """Compares two scored files.

    Args:
        first: [images, num_classes, num_classes + 1], confusion matrices of the first file.
        second: those of the second file on the same images.
        bound: largest difference in mIoU, fraction.
        calibration_images: how many images each file was calibrated on.

    Returns:
        the two scores and their difference.

    Raises:
        RuntimeError: the files count no class in common.
    """
    if not (classes := common_classes(first, second)):
        raise RuntimeError(
            "the two files count no class in common: the labels hold none; check the data set"
        )
    low, high = (
        confusion.mean_iou(matrices.sum(0, dtype=np.int64), classes)[0]
        for matrices in (first, second)
    )
    difference = miou_difference(first, second)
    return CalibrationStability(
        (low, high),
        difference,
        bound=bound,
        calibration_images=calibration_images,
        score_images=len(first),
    )


def _file(plan: CalibrationCheckPlan, chosen: list[int], *, folder: pathlib.Path) -> pathlib.Path:
    export = ExportPlan(
        output_dir=folder,
        height=plan.height,
        width=plan.width,
        files=[
            FileSpec(
                Variant.INT8, Head.LOGITS, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.UINT8
            )
        ],
        preprocessing=plan.preprocessing,
        label_set=plan.label_set,
        calibration_dataset=Subset(plan.dataset, tuple(chosen), split=plan.dataset.split),
        calibration_images=len(chosen),
        calibration_seed=plan.seed,
        post_training=plan.steps,
    )
    (file,) = export_files(plan.source, export)
    if file.path is None:
        raise RuntimeError(file.failure)
    return file.path

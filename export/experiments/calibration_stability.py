"""Checks whether a calibration set is large enough: disjoint sets must give the same mIoU.

"The same" is tested as an equivalence: the confidence interval of the difference must lie within a
bound. A small difference on few images is no proof.
"""

import dataclasses
import enum
import pathlib

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset, Subset
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval, common_classes, miou_difference
from deeplab_tf.metrics.resampling import Dependence
from deeplab_tf.quantization.ptq.post_training import PostTraining
from deeplab_tf.scratch import scratch_folder
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
        calibration_images: how many in each set.
        score_images: how many other images of the list all files are scored on.
        seed: of the choice of images.
        bound: largest difference in mIoU, fraction.
        steps: post-training steps, or None for the converter's own calibration.
        pairs: pairs of disjoint sets; no two sets have an image in common.
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
    pairs: int = 1

    def __post_init__(self) -> None:
        if min(self.calibration_images, self.score_images, self.pairs) < 1:
            raise ValueError(
                "calibration_images, score_images and pairs must be at least 1, got "
                f"{self.calibration_images}, {self.score_images} and {self.pairs}"
            )
        if not 0 < self.bound < 1:
            raise ValueError(
                f"bound: expected a fraction of mIoU above 0 and below 1, got {self.bound}"
            )


class Verdict(enum.Enum):
    """What the intervals say about a calibration set."""

    STABLE = "stable"
    UNSTABLE = "unstable"
    UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class PairDifference:
    """Two files that were calibrated on disjoint images.

    Attributes:
        mious: of the two files, fractions, over the classes that both count.
        difference: second less first, with its bootstrap interval over the scored images.
    """

    mious: tuple[float, float]
    difference: Interval

    def verdict(self, bound: float) -> Verdict:
        """Tests whether the two files are equivalent (Schuirmann 1987: two one-sided tests).

        Args:
            bound: largest difference in mIoU that counts as equal, fraction.

        Returns:
            STABLE if the interval lies within the bound, UNSTABLE if the difference is beyond it,
            UNKNOWN if the images do not decide it.
        """
        change = self.difference
        if abs(change.difference) > bound:
            return Verdict.UNSTABLE
        inside = -bound <= change.low and change.high <= bound
        return Verdict.STABLE if inside else Verdict.UNKNOWN


@dataclasses.dataclass(frozen=True)
class CalibrationStability:
    """The result of a check.

    Attributes:
        pairs: one difference per pair of disjoint sets.
        bound: largest difference that counts as stable.
        calibration_images: how many in each set.
        score_images: how many all files were scored on.
    """

    pairs: tuple[PairDifference, ...]
    bound: float
    calibration_images: int
    score_images: int

    @property
    def verdict(self) -> Verdict:
        """STABLE if every pair is, UNSTABLE if one is, else UNKNOWN."""
        found = {pair.verdict(self.bound) for pair in self.pairs}
        return next(v for v in (Verdict.UNSTABLE, Verdict.UNKNOWN, Verdict.STABLE) if v in found)

    def lines(self) -> list[str]:
        """Returns the result as text, with a remedy where it is not stable."""
        text = [
            f"{len(self.pairs)} pair(s) of disjoint sets of {self.calibration_images} images, "
            f"scored on {self.score_images} other images, bound {100 * self.bound:.2f} points"
        ]
        for pair in self.pairs:
            first, second = (100 * value for value in pair.mious)
            change = pair.difference
            ends = (
                f"too few independent images ({change.independent}) for an interval"
                if change.too_few
                else f"95 % interval {100 * change.low:+.2f} to {100 * change.high:+.2f} over "
                f"{change.basis}"
            )
            text.append(
                f"mIoU {first:.2f} and {second:.2f} %: {100 * change.difference:+.2f}, {ends}; "
                f"{pair.verdict(self.bound).value}"
            )
        match self.verdict:
            case Verdict.STABLE:
                text.append("STABLE: every interval lies within the bound")
            case Verdict.UNSTABLE:
                text.append(
                    f"NOT STABLE: {self.calibration_images} calibration images are too few; try "
                    f"{2 * self.calibration_images}, or --activation_ranges=mse"
                )
            case Verdict.UNKNOWN:
                text.append(
                    f"NOT SHOWN: differences are small, but {self.score_images} images do not "
                    "prove them below the bound; give more --score_images or a larger --bound"
                )
        return text


def check_calibration(plan: CalibrationCheckPlan) -> CalibrationStability:
    """Calibrates pairs of int8 files on disjoint images and scores all.

    Args:
        plan: what to check.

    Returns:
        the scores of every pair and their difference.

    Raises:
        ValueError: the list is too short.
        RuntimeError: a file could not be made.
    """
    sizes = (*[plan.calibration_images] * (2 * plan.pairs), plan.score_images)
    *sets, chosen = disjoint_samples(plan.dataset, sizes, seed=plan.seed)
    # In the order of the list: blocks of an interval are neighbours.
    scored = Subset(plan.dataset, tuple(sorted(chosen)), split="scored")
    options = EvaluationOptions(processes=default_processes(), latency_repeats=0, keep_images=True)
    with scratch_folder("stability") as scratch:
        contracts = [
            read_contract(
                _file(plan, chosen, folder=scratch / str(number)),
                None,
                name=f"{number}",
            )
            for number, chosen in enumerate(sets)
        ]
        results = evaluate(contracts, scored, options=options, reference=0)
    for result in results:
        if result.failure or result.matrix is None:
            raise RuntimeError(result.failure)
    matrices = [np.asarray(result.image_matrices) for result in results]
    return CalibrationStability(
        tuple(
            compare_files(first, second, dependence=options.dependence(scored, len(scored)))
            for first, second in zip(matrices[::2], matrices[1::2], strict=True)
        ),
        bound=plan.bound,
        calibration_images=plan.calibration_images,
        score_images=len(scored),
    )


def compare_files(
    first: np.ndarray, second: np.ndarray, *, dependence: Dependence
) -> PairDifference:
    """Compares two scored files.

    Args:
        first: [images, num_classes, num_classes + 1], confusion matrices of the first file.
        second: those of the second file on the same images.
        dependence: which images belong together.

    Returns:
        the two scores and their difference.

    Raises:
        RuntimeError: the files count no class in common.
    """
    if not (classes := common_classes(first, second)):
        raise RuntimeError(
            "the two files count no class in common: the labels hold none; check the data set"
        )
    mious = tuple(
        confusion.mean_iou(matrices.sum(0, dtype=np.int64), classes)[0]
        for matrices in (first, second)
    )
    return PairDifference(
        (mious[0], mious[1]), miou_difference(first, second, dependence=dependence)
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

"""What one comparison is asked to do: which methods, calibrated and scored on which lists."""

import collections.abc
import dataclasses
import pathlib

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.runs.folder import RunFolder
from export.conversion.pipeline import ExportPlan
from export.conversion.source import RunSource
from export.conversion.variants import Variant
from export.experiments.comparison import REFERENCE, Comparison, Method, post_training_methods
from export.experiments.experiment_run import ExperimentRun
from tflite_tools.evaluation.evaluation import EvaluationOptions


@dataclasses.dataclass(frozen=True)
class ComparisonRequest:
    """Methods, lists and options.

    Attributes:
        methods: names of the methods; () for all. float32 is always among them.
        runs: quantization-aware runs of the network by the name of their row.
        adaround: how the rounding of weights is learned.
        calibration_split: list that ranges are calibrated on.
        calibration_images: how many.
        calibration_seed: seed of the choice of images.
        split: list to score on.
        select_on_holdout: choose one method on held-out images of the calibration list.
        holdout_images: how many; 0 for those that the run held out.
        holdout_groups: or these groups.
        options: how the files are run and scored.
        overwrite: replace files that exist.
    """

    methods: tuple[str, ...] = ()
    runs: collections.abc.Mapping[str, pathlib.Path] = dataclasses.field(default_factory=dict)
    adaround: AdaRoundOptions = dataclasses.field(default_factory=AdaRoundOptions)
    calibration_split: str = "train"
    calibration_images: int = 32
    calibration_seed: int = 0
    split: str = "val"
    select_on_holdout: bool = False
    holdout_images: int = 0
    holdout_groups: tuple[str, ...] = ()
    options: EvaluationOptions = dataclasses.field(default_factory=EvaluationOptions)
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.calibration_split == self.split:
            raise ValueError(
                f"--calibration_split and --split are both {self.split}; a score on the "
                "calibration list is meaningless, choose another list"
            )
        if (self.holdout_groups or self.holdout_images) and not self.select_on_holdout:
            raise ValueError("--holdout_images and --holdout_groups need --select_on=holdout")

    def comparison(self, run: ExperimentRun) -> Comparison:
        """Opens the lists and the other runs.

        Args:
            run: the float network and its data set.

        Raises:
            FileNotFoundError: a list or a run is missing.
            ValueError: an unknown method, or lists that do not fit the network.
        """
        methods = self._methods(run)
        calibration, evaluation = run.open_list(self.calibration_split), run.open_list(self.split)
        selection: SegmentationDataset | None = None
        if self.select_on_holdout:
            calibration, selection = run.hold_out(
                calibration, self.holdout_images, groups=self.holdout_groups
            )
        self.options.mean_indices(evaluation)
        height, width = run.input_size(calibration)
        plan = ExportPlan(
            output_dir=run.output_dir,
            height=height,
            width=width,
            files=[],
            preprocessing=run.config.data.preprocessing,
            label_set=run.folder.read_labels(),
            calibration_dataset=calibration,
            calibration_images=min(self.calibration_images, len(calibration)),
            calibration_seed=self.calibration_seed,
            overwrite=self.overwrite,
        )
        return Comparison(
            run.source,
            methods,
            plan=plan,
            evaluation=evaluation,
            options=self.options,
            selection=selection,
        )

    def _methods(self, run: ExperimentRun) -> list[Method]:
        """Returns the chosen methods, and float32."""
        methods = post_training_methods(self.adaround)
        if run.source.quantization_aware:
            methods.append(Method("qat", Variant.QAT_INT8, steps=None, source=run.source))
        for name, path in self.runs.items():
            source = RunSource(RunFolder(path))
            methods.append(Method(name, Variant.QAT_INT8, steps=None, source=source))
        known = [method.name for method in methods]
        if unknown := [name for name in self.methods if name not in known]:
            raise ValueError(f"--methods: unknown {', '.join(unknown)}; known: {', '.join(known)}")
        chosen = (*self.methods, REFERENCE)
        return [method for method in methods if not self.methods or method.name in chosen]

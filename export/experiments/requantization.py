"""Converts an existing `.tflite` again without training, and compares it with the original.

Old uint8 files quantize weights per tensor and run on slow kernels; the same network as int8
per channel runs on fast ones. A float file becomes an integer one.
"""

import dataclasses
import shutil

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.runs.folder import RunFolder
from export.conversion.pipeline import ExportedFile, ExportPlan, export_files
from export.conversion.source import RunSource
from export.conversion.variants import RULES, Head, IoDtype, Variant, plan_files
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, evaluate
from tflite_tools.to_keras.convert import ImportConfig, convert

FILES = "tflite"
"""Folder of the new files inside the output folder, as in any run."""


@dataclasses.dataclass(frozen=True)
class RequantizationPlan:
    """What to convert, and how to score it.

    Attributes:
        imported: the file, its output folder, and the meaning of its input.
        calibration: list that activation ranges are calibrated on.
        evaluation: list that all files are scored on, or None.
        options: of the evaluation.
        calibration_images: how many.
        calibration_seed: of the choice.
        variants: number formats to make.
        heads: forms of the output; empty for that of the file.
    """

    imported: ImportConfig
    calibration: SegmentationDataset
    evaluation: SegmentationDataset | None
    options: EvaluationOptions
    calibration_images: int = 100
    calibration_seed: int = 0
    variants: tuple[Variant, ...] = (Variant.INT8,)
    heads: tuple[Head, ...] = ()

    def __post_init__(self) -> None:
        if wrong := [v.value for v in self.variants if RULES[v].quantization_aware]:
            raise ValueError(f"{', '.join(wrong)} needs training; choose another variant")
        if self.evaluation is not None:
            self.options.mean_indices(self.evaluation)
        lists = (self.calibration, self.evaluation)
        if self.evaluation is not None and len({(d.name, d.split) for d in lists if d}) == 1:
            raise ValueError(
                f"calibration and evaluation are both split {self.calibration.split!r}; a score on "
                "the calibration list is meaningless, choose another list"
            )


@dataclasses.dataclass(frozen=True)
class Requantization:
    """The result of a requantization.

    Attributes:
        files: the new files.
        results: scores, the original first; empty without an evaluation list.
        head: nodes of the original that the heads of the new files replace.
    """

    files: list[ExportedFile]
    results: list[ModelResult]
    head: tuple[str, ...]


def requantize(plan: RequantizationPlan) -> Requantization:
    """Imports a file, converts it again, and scores old and new files in one run.

    Args:
        plan: what to convert.

    Returns:
        the new files and all scores.

    Raises:
        ValueError: the file cannot be imported, does not end in logits of an image, or has
            other classes than the data set.
    """
    folder_is_new = not plan.imported.output_dir.exists()
    imported = convert(plan.imported)
    if imported.run is None:
        raise ValueError(f"{plan.imported.model}: {imported.no_run}")
    run = imported.run
    label_set = plan.calibration.label_set
    if run.config.model.num_classes != label_set.num_classes:
        if folder_is_new:
            shutil.rmtree(plan.imported.output_dir)
        raise ValueError(
            f"{plan.imported.model}: expected {label_set.num_classes} classes as in "
            f"{plan.calibration.name}, got {run.config.model.num_classes}; give the data set that "
            "the file was made for"
        )
    original = read_contract(plan.imported.model, run.config.data.preprocessing, name="original")
    own = Head.ARGMAX if original.classes_output else Head.LOGITS
    specs, _ = plan_files(
        list(plan.variants), list(plan.heads or (own,)), input_dtype=_integer(original.input_dtype)
    )
    folder = plan.imported.output_dir
    height, width = run.config.model.padded_size(1, 1)
    files = export_files(
        RunSource(RunFolder(folder)),
        ExportPlan(
            output_dir=folder / FILES,
            height=height,
            width=width,
            files=specs,
            preprocessing=run.config.data.preprocessing,
            label_set=label_set,
            calibration_dataset=plan.calibration,
            calibration_images=min(plan.calibration_images, len(plan.calibration)),
            calibration_seed=plan.calibration_seed,
            overwrite=plan.imported.overwrite,
        ),
    )
    results = []
    made = [file.path for file in files if file.path is not None]
    if plan.evaluation is not None and made:
        contracts = [original, *(read_contract(path, None, name=path.stem) for path in made)]
        results = evaluate(contracts, plan.evaluation, options=plan.options, reference=0)
    return Requantization(files, results, head=run.head)


def _integer(dtype: np.dtype) -> IoDtype:
    """Returns the original's input type if an integer file can have it, else uint8."""
    return IoDtype.INT8 if str(dtype) == "int8" else IoDtype.UINT8

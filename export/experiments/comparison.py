"""Makes a file with each quantization method and scores all in one run.

Every number comes from a real `.tflite` in the interpreter. Differences from float have a paired
bootstrap interval (`deeplab_tf.metrics.bootstrap`). The best of many methods on a list is not as
good as it looks there: its interval is widened for the choice, or it is chosen on another list
(`Comparison.selection`) and it alone is scored on the one that is reported.
"""

import dataclasses
import json
import math
import pathlib
import time

from absl import logging

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics.bootstrap import (
    Interval,
    simultaneous_differences,
)
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import BiasMethod, PostTraining
from deeplab_tf.runs.folder import Phase
from export.conversion.calibration import choose_samples
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.recipe import code_digest
from export.conversion.source import Source
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.evaluation.differences import difference_from
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, evaluate
from tflite_tools.evaluation.signal_to_noise import signal_to_noise_db
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.manifest import sha256_of
from tflite_tools.versions import versions

REFERENCE = "float32"
"""The method that the others are compared with."""
RECORD = "rung.json"
"""In a method's folder: how its file was made and how long that took; the name is kept, too."""
SIGNAL_IMAGES = 12
"""Images, evenly spread over the list, that the signal-to-noise ratio is measured on."""


@dataclasses.dataclass(frozen=True)
class Method:
    """One way to quantize.

    Attributes:
        name: of its row and folder.
        variant: number format.
        steps: post-training steps, or None where the converter quantizes by itself.
        source: its own network (a quantization-aware run), or None for the common one.
    """

    name: str
    variant: Variant
    steps: PostTraining | None = None
    source: Source | None = None


def post_training_methods(adaround: AdaRoundOptions) -> list[Method]:
    """Lists the methods without retraining: float, int8 with more and more steps, int16x8.

    Args:
        adaround: how the rounding of weights is learned.
    """
    per_channel, per_tensor = (
        PostTraining(per_channel=channel, adaround_options=adaround) for channel in (True, False)
    )
    both = {
        name: dataclasses.replace(plan, equalize=True, relu6=Relu6.EXACT)
        for name, plan in (("channel", per_channel), ("tensor", per_tensor))
    }
    absorbed = {name: dataclasses.replace(plan, absorb=True) for name, plan in both.items()}
    all_steps = {
        name: dataclasses.replace(plan, bias=BiasMethod.EMPIRICAL)
        for name, plan in absorbed.items()
    }
    corrected = dataclasses.replace(per_channel, bias=BiasMethod.EMPIRICAL)
    mse = {
        "channel": dataclasses.replace(corrected, ranges=RangeMethod.MSE),
        "tensor": dataclasses.replace(all_steps["tensor"], ranges=RangeMethod.MSE),
    }
    steps = {
        "per_tensor": per_tensor,
        "per_tensor_equalized": both["tensor"],
        "per_tensor_equalized_absorbed_corrected": all_steps["tensor"],
        "per_tensor_equalized_absorbed_corrected_mse": mse["tensor"],
        "per_tensor_equalized_absorbed_adaround_corrected": dataclasses.replace(
            all_steps["tensor"], adaround=True
        ),
        "per_channel": None,
        "equalized": both["channel"],
        "equalized_absorbed": absorbed["channel"],
        "equalized_absorbed_corrected": all_steps["channel"],
        "corrected": corrected,
        "corrected_mse": mse["channel"],
        "adaround": dataclasses.replace(per_channel, adaround=True),
        "adaround_corrected": dataclasses.replace(corrected, adaround=True),
    }
    return [
        Method(REFERENCE, Variant.FLOAT32),
        *(Method(name, Variant.INT8, steps=plan) for name, plan in steps.items()),
        Method("int16x8", Variant.INT16X8),
    ]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes:
        source: the float network.
        methods: ways to quantize it, with the reference.
        plan: size, labels, calibration; files and folder are replaced for each method.
        evaluation: list that is scored.
        options: of the evaluation.
        selection: list that one method is chosen on; None to score all on `evaluation`.
    """

    source: Source
    methods: list[Method]
    plan: ExportPlan
    evaluation: SegmentationDataset
    options: EvaluationOptions
    selection: SegmentationDataset | None = None

    def __post_init__(self) -> None:
        names = [method.name for method in self.methods]
        if REFERENCE not in names or len(set(names)) < len(names):
            raise ValueError(f"methods: expected {REFERENCE} and different names, got {names}")


@dataclasses.dataclass(frozen=True)
class ComparisonRow:
    """The results of one method.

    Attributes:
        name: of the method.
        result: scores, or None where no file was made.
        difference: mIoU less that of float over the classes that both count; None for float.
        snr_db: signal-to-noise ratio of the logits, float's as signal; None for float.
        minutes: time to make the file, with the steps of its quantization-aware phase.
        failure: cause, or "".
        changed_over: indices of the classes that the difference is taken over.
    """

    name: str
    result: ModelResult | None
    difference: Interval | None
    snr_db: float | None
    minutes: float
    failure: str
    changed_over: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class ComparisonResult:
    """The rows of a comparison.

    Attributes:
        rows: scores on the list that is reported: of all methods, or of float and the chosen one.
        best: name of the method of the highest difference from float, or "" if none has one.
        best_difference: its difference on the reported list; widened for the choice where it was
            made on that list.
        selection: scores of all methods on the list that the best was chosen on; [] if it was
            chosen on the reported one.
    """

    rows: list[ComparisonRow]
    best: str
    best_difference: Interval | None
    selection: list[ComparisonRow] = dataclasses.field(default_factory=list)


def compare_methods(comparison: Comparison) -> ComparisonResult:
    """Makes the file of every method and scores it; a method that fails does not stop the others.

    A file of an earlier comparison is used again if it would be the same.

    Args:
        comparison: what to compare.

    Returns:
        one row per method; with a selection list, of float and the method chosen on it.

    Raises:
        RuntimeError: there is no float file, or it cannot be scored; no method can be chosen.
    """
    files = _make_all(comparison)
    if comparison.selection is None:
        rows = _score(comparison, files, dataset=comparison.evaluation)
        best = _best(rows)
        return ComparisonResult(rows, best, _widened(comparison, rows, best=best))
    # Nothing is timed where the method is chosen: the reported run does that.
    on_selection = dataclasses.replace(
        comparison, options=dataclasses.replace(comparison.options, latency_repeats=0, limit=0)
    )
    selection = _score(on_selection, files, dataset=comparison.selection)
    best = _best(selection)
    if not best:
        raise RuntimeError("no method can be chosen: none has a difference from float")
    kept = [method for method in comparison.methods if method.name in (REFERENCE, best)]
    rows = _score(
        dataclasses.replace(comparison, methods=kept), files, dataset=comparison.evaluation
    )
    (chosen,) = (row for row in rows if row.name == best)
    return ComparisonResult(rows, best, chosen.difference, selection=selection)


def _best(rows: list[ComparisonRow]) -> str:
    """Returns the name of the row of the highest difference from float, or ""."""
    known = [
        (row.difference.difference, row.name)
        for row in rows
        if row.difference is not None and math.isfinite(row.difference.difference)
    ]
    return max(known)[1] if known else ""


def _widened(comparison: Comparison, rows: list[ComparisonRow], *, best: str) -> Interval | None:
    """Computes the best row's difference with an interval that holds for all rows at once."""
    base = next(row.result for row in rows if row.name == REFERENCE)
    results = {
        row.name: row.result.image_matrices
        for row in rows
        if row.difference is not None and row.result is not None
    }
    known = {name: matrices for name, matrices in results.items() if matrices is not None}
    if base is None or base.image_matrices is None or best not in known:
        return None
    intervals = simultaneous_differences(
        base.image_matrices,
        list(known.values()),
        dependence=comparison.options.dependence(comparison.evaluation, base.images),
        classes=comparison.options.mean_indices(comparison.evaluation),
    )
    return dict(zip(known, intervals, strict=True))[best]


@dataclasses.dataclass(frozen=True)
class _Files:
    """Files of all methods.

    Attributes:
        made: path by method.
        minutes: time that each took.
        failures: cause by method, or "".
    """

    made: dict[str, pathlib.Path]
    minutes: dict[str, float]
    failures: dict[str, str]


def _make_all(comparison: Comparison) -> _Files:
    made: dict[str, pathlib.Path] = {}
    minutes: dict[str, float] = {}
    failures: dict[str, str] = {}
    for method in comparison.methods:
        path, minutes[method.name], failures[method.name] = _make(comparison, method)
        minutes[method.name] += _training_minutes(comparison, method)
        if path is not None:
            made[method.name] = path
        logging.info("%s: %.1f minutes", method.name, minutes[method.name])
    if REFERENCE not in made:
        raise RuntimeError(f"no {REFERENCE} file to compare with: {failures[REFERENCE]}")
    return _Files(made, minutes, failures=failures)


def _score(
    comparison: Comparison, files: _Files, *, dataset: SegmentationDataset
) -> list[ComparisonRow]:
    """Scores the files of the comparison's methods on a list."""
    wanted = [method.name for method in comparison.methods if method.name in files.made]
    names = sorted(wanted, key=lambda name: name != REFERENCE)
    contracts = [read_contract(files.made[name], None, name=name) for name in names]
    options = dataclasses.replace(comparison.options, keep_images=True)
    results = dict(
        zip(names, evaluate(contracts, dataset, options=options, reference=0), strict=True)
    )
    if results[REFERENCE].matrix is None:
        raise RuntimeError(f"the {REFERENCE} file has no score: {results[REFERENCE].failure}")
    ratios = _ratios(contracts, dataset, options=options)
    failures = files.failures | {
        name: result.failure for name, result in results.items() if result.failure
    }
    classes = options.mean_indices(dataset)
    dependence = options.dependence(dataset, results[REFERENCE].images)
    rows = []
    for method in comparison.methods:
        result, difference = results.get(method.name), None
        both: tuple[int, ...] = ()
        if method.name != REFERENCE:
            difference, both = difference_from(
                results[REFERENCE], result, classes=classes, dependence=dependence
            )
        rows.append(
            ComparisonRow(
                method.name,
                result,
                difference=difference,
                snr_db=ratios.get(method.name),
                minutes=files.minutes[method.name],
                failure=failures.get(method.name, ""),
                changed_over=both,
            )
        )
    return rows


def _training_minutes(comparison: Comparison, method: Method) -> float:
    if method.variant is not Variant.QAT_INT8 or method.steps:
        return 0.0
    return (method.source or comparison.source).training_minutes(Phase.QUANTIZED) or 0.0


def _make(comparison: Comparison, method: Method) -> tuple[pathlib.Path | None, float, str]:
    """Makes a method's file, or takes that of an earlier comparison if nothing has changed.

    Returns:
        path or None, minutes it took to make, cause of a failure or "".
    """
    source = method.source or comparison.source
    folder = comparison.plan.output_dir / method.name
    spec = FileSpec(method.variant, Head.LOGITS, *_io(method.variant))
    path, record = folder / spec.file_name, folder / RECORD
    recipe = _recipe(comparison, method, source=source)
    if (
        source.fingerprint()
        and path.is_file()
        and record.is_file()
        and not comparison.plan.overwrite
    ):
        with bounded_file.read_as(record, "the record of a comparison; delete it"):
            earlier = bounded_file.read_json(record)
            same = earlier["recipe"] == recipe
            if same and earlier["sha256"] == sha256_of(read_model_bytes(path)):
                logging.info("%s: made before", method.name)
                return path, float(earlier["minutes"]), ""
    started = time.monotonic()
    plan = dataclasses.replace(
        comparison.plan, output_dir=folder, files=[spec], post_training=method.steps
    )
    (file,) = export_files(source, plan)
    minutes = (time.monotonic() - started) / 60
    if file.path is not None:
        digest = sha256_of(read_model_bytes(file.path))
        text = json.dumps({"recipe": recipe, "sha256": digest, "minutes": minutes}, indent=1)
        atomic_file.write_text(record, text + "\n")
    return file.path, minutes, file.failure


def _recipe(comparison: Comparison, method: Method, *, source: Source) -> dict:
    """Returns everything that the content of a method's file depends on, as read from JSON."""
    plan = comparison.plan
    dataset = plan.calibration_dataset
    recipe = {
        "network": source.fingerprint(),
        "variant": method.variant.value,
        "steps": method.steps.to_json() if method.steps else None,
        "size": [plan.height, plan.width],
        "preprocessing": dataclasses.asdict(plan.preprocessing),
        "labels": list(plan.label_set.names),
        "calibration": [dataset.name, dataset.split, plan.calibration_images, plan.calibration_seed]
        if dataset
        else None,
        "photos": [
            [dataset.sample_name(index), sha256_of(dataset.image(index).tobytes())]
            for index in choose_samples(
                dataset, plan.calibration_images, seed=plan.calibration_seed
            )
        ]
        if dataset
        else None,
        "versions": versions(),
        "code": code_digest(),
    }
    return json.loads(json.dumps(recipe))


def _io(variant: Variant) -> tuple[IoDtype, IoDtype]:
    integer = variant in (Variant.INT8, Variant.QAT_INT8)
    return (IoDtype.UINT8, IoDtype.UINT8) if integer else (IoDtype.FLOAT32, IoDtype.FLOAT32)


def _ratios(
    contracts: list[ModelContract], dataset: SegmentationDataset, *, options: EvaluationOptions
) -> dict[str, float]:
    count = min(options.limit or len(dataset), len(dataset))
    step = max(1, count // SIGNAL_IMAGES)
    values = signal_to_noise_db(
        contracts, dataset, indices=list(range(0, count, step))[:SIGNAL_IMAGES]
    )
    return {contract.name: value for contract, value in zip(contracts[1:], values, strict=True)}

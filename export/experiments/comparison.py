"""Compares quantization methods: one file per method, all scored in one run.

Every number comes from a real `.tflite` in the interpreter. Differences from float have a paired
bootstrap interval over images.
"""

import csv
import dataclasses
import functools
import io
import json
import math
import pathlib
import time

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from absl import logging

import deeplab_tf
import export
import tflite_tools.flatbuffer
from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval, common_classes, miou_difference
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import BiasMethod, PostTraining
from deeplab_tf.runs.folder import Phase
from export.conversion.calibration import choose_samples
from export.conversion.pipeline import ExportPlan, export_files
from export.conversion.source import Source
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult, evaluate
from tflite_tools.evaluation.signal_to_noise import signal_to_noise_db
from tflite_tools.manifest import sha256_of
from tflite_tools.text_table import align
from tflite_tools.versions import versions

REFERENCE = "float32"
"""The method that the others are compared with."""
JSON, CSV, PLOT = "ladder.json", "ladder.csv", "ladder.png"
"""Files of a comparison. These names, and "rungs" in the JSON, are kept for programs that read
them."""
RECORD = "rung.json"
"""In a method's folder: how its file was made and how long that took; the name is kept, too."""
NEAR_FLOAT = 3.0
"""Points of mIoU below float that the second panel of the plot shows."""
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


def post_training_methods() -> list[Method]:
    """Lists the methods without retraining: float, int8 with more and more steps, int16x8."""
    per_channel, per_tensor = PostTraining(), PostTraining(per_channel=False)
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
    """

    source: Source
    methods: list[Method]
    plan: ExportPlan
    evaluation: SegmentationDataset
    options: EvaluationOptions

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


def compare_methods(comparison: Comparison) -> list[ComparisonRow]:
    """Makes the file of every method and scores all; a method that fails does not stop the others.

    A file of an earlier comparison is used again if it would be the same.

    Args:
        comparison: what to compare.

    Returns:
        one row per method.

    Raises:
        RuntimeError: there is no float file, or it cannot be scored.
    """
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
    names = sorted(made, key=lambda name: name != REFERENCE)
    contracts = [read_contract(made[name], None, name=name) for name in names]
    options = dataclasses.replace(comparison.options, keep_images=True)
    results = dict(
        zip(
            names,
            evaluate(contracts, comparison.evaluation, options=options, reference=0),
            strict=True,
        )
    )
    if results[REFERENCE].matrix is None:
        raise RuntimeError(f"the {REFERENCE} file has no score: {results[REFERENCE].failure}")
    ratios = _ratios(contracts, comparison.evaluation, options=options)
    failures |= {name: result.failure for name, result in results.items() if result.failure}
    classes = options.mean_indices(comparison.evaluation)
    rows = []
    for method in comparison.methods:
        result, difference = results.get(method.name), None
        both: tuple[int, ...] = ()
        if method.name != REFERENCE:
            difference, both = compare_with_float(results[REFERENCE], result, classes=classes)
        rows.append(
            ComparisonRow(
                method.name,
                result,
                difference=difference,
                snr_db=ratios.get(method.name),
                minutes=minutes[method.name],
                failure=failures.get(method.name, ""),
                changed_over=both,
            )
        )
    return rows


def compare_with_float(
    base: ModelResult, result: ModelResult | None, *, classes: tuple[int, ...]
) -> tuple[Interval | None, tuple[int, ...]]:
    """Compares the mIoU of a file with that of float.

    Args:
        base: the result of float, with the confusion matrix of every image.
        result: of the file, likewise; None where there is none.
        classes: classes that means are taken over; empty for all.

    Returns:
        the difference of mIoU with its interval, and the classes that both count; None and () where
        a score is missing.
    """
    if result is None or result.image_matrices is None or base.image_matrices is None:
        return None, ()
    both = common_classes(base.image_matrices, result.image_matrices, classes=classes)
    if not both:
        return None, ()
    return miou_difference(base.image_matrices, result.image_matrices, classes=classes), both


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
        earlier = json.loads(record.read_text())
        if earlier["recipe"] == recipe and earlier["sha256"] == sha256_of(path.read_bytes()):
            logging.info("%s: made before", method.name)
            return path, earlier["minutes"], ""
    started = time.monotonic()
    plan = dataclasses.replace(
        comparison.plan, output_dir=folder, files=[spec], post_training=method.steps
    )
    (file,) = export_files(source, plan)
    minutes = (time.monotonic() - started) / 60
    if file.path is not None:
        digest = sha256_of(file.path.read_bytes())
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
        "code": _code(),
    }
    return json.loads(json.dumps(recipe))


@functools.cache
def _code() -> str:
    """Returns the sha256 of the sources that the content of a file depends on."""
    packages = (deeplab_tf, export, tflite_tools.flatbuffer)
    paths = [
        path for package in packages for path in pathlib.Path(package.__path__[0]).rglob("*.py")
    ]
    return sha256_of(b"".join(path.read_bytes() for path in sorted(paths)))


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


_HEADER = [
    *[("quantization", "<"), ("mIoU %", ">"), ("from float", ">"), ("95 % interval", ">")],
    *[("worst class", ">"), ("dB", ">"), ("MB", ">"), ("ms", ">"), ("minutes", ">")],
]


def comparison_table(
    rows: list[ComparisonRow], dataset: SegmentationDataset, *, options: EvaluationOptions
) -> str:
    """Formats the rows as text; a difference whose interval contains zero is marked ~.

    Args:
        rows: results of all methods.
        dataset: list that was scored.
        options: of the evaluation.

    Returns:
        the table and its notes.
    """
    classes = options.mean_indices(dataset)
    base = next(row.result for row in rows if row.name == REFERENCE)
    counted_by_float = (
        confusion.mean_iou(base.matrix, classes)[1]
        if base is not None and base.matrix is not None
        else 0
    )
    lines, uneven = [], []
    for row in rows:
        if row.failure or row.result is None or row.result.matrix is None:
            lines.append([row.name, "failed", *["-"] * 7])
            continue
        score, counted = confusion.mean_iou(row.result.matrix, classes)
        change = row.difference
        if change and (counted != len(row.changed_over) or counted != counted_by_float):
            uneven.append(
                f"{row.name}: mIoU over {counted} classes, {REFERENCE}'s over {counted_by_float}; "
                f"the difference over the {len(row.changed_over)} that both count"
            )
        latency = row.result.latency
        lines.append(
            [
                row.name,
                f"{100 * score:.2f}",
                f"{100 * change.difference:+.2f}{'~' if change.is_noise else ''}" if change else "",
                f"{100 * change.low:+.2f} {100 * change.high:+.2f}" if change else "",
                _worst_class(row.result, base, dataset=dataset) if change else "",
                f"{row.snr_db:.1f}" if row.snr_db is not None else "",
                f"{row.result.contract.size_bytes / 1e6:.2f}",
                f"{latency.median:.1f}" if latency else "-",
                f"{row.minutes:.1f}",
            ]
        )
    images = base.images if base is not None else 0
    compared = min(images, SIGNAL_IMAGES)
    notes = [
        f"{dataset.name}, split {dataset.split}, {images} images; ~: zero lies inside the interval "
        f"(paired bootstrap over images); dB: logits against float's, {compared} images",
        *uneven,
        *(f"{row.name}: FAILED: {row.failure}" for row in rows if row.failure),
    ]
    return "\n\n".join([align(_HEADER, lines), "\n".join(notes)])


def _class_changes(
    result: ModelResult, base: ModelResult | None, *, dataset: SegmentationDataset
) -> dict[str, float]:
    """Returns IoU less that of float by class, without classes of empty union."""
    if result.matrix is None or base is None or base.matrix is None:
        return {}
    change = confusion.iou_per_class(result.matrix) - confusion.iou_per_class(base.matrix)
    names = dataset.label_set.names
    return {name: float(c) for name, c in zip(names, change, strict=True) if math.isfinite(c)}


def _worst_class(
    result: ModelResult, base: ModelResult | None, *, dataset: SegmentationDataset
) -> str:
    changes = _class_changes(result, base, dataset=dataset)
    if not changes:
        return "-"
    worst = min(changes, key=lambda name: changes[name])
    return f"{worst} {100 * changes[worst]:+.2f}"


def write_comparison(
    rows: list[ComparisonRow],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    output_dir: pathlib.Path,
) -> None:
    """Writes `ladder.json`, `ladder.csv` and `ladder.png`.

    Args:
        rows: results of all methods.
        dataset: list that was scored.
        options: of the evaluation.
        output_dir: folder of the files.
    """
    classes = options.mean_indices(dataset)
    base = next(row.result for row in rows if row.name == REFERENCE)
    documents = []
    for row in rows:
        values: dict = {"name": row.name, "minutes": row.minutes, "failure": row.failure}
        if row.result is not None and row.result.matrix is not None:
            latency = row.result.latency
            values |= {
                "miou": confusion.mean_iou(row.result.matrix, classes)[0],
                "difference": dataclasses.asdict(row.difference) if row.difference else None,
                "changed_over": [dataset.label_set.names[index] for index in row.changed_over],
                "iou_change": _class_changes(row.result, base, dataset=dataset),
                "snr_db": row.snr_db,
                "size_bytes": row.result.contract.size_bytes,
                "latency_ms": latency.median if latency else None,
                "images": row.result.images,
            }
        documents.append(values)
    text = {
        "dataset": dataset.name,
        "split": dataset.split,
        "options": vars(options),
        "versions": versions(),
        "rungs": documents,
    }
    atomic_file.write_text(output_dir / JSON, json.dumps(text, indent=1) + "\n")
    atomic_file.write_text(output_dir / CSV, _csv(documents))
    _plot(documents, output_dir / PLOT)


def _csv(documents: list[dict]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream)
    columns = ("name", "miou", "snr_db", "size_bytes", "latency_ms", "minutes", "images", "failure")
    ends = ("difference", "low", "high")
    changed = list(dict.fromkeys(c for values in documents for c in values.get("iou_change", ())))
    writer.writerow([*columns, *ends, *(f"change {name}" for name in changed)])
    for values in documents:
        difference, changes = values.get("difference") or {}, values.get("iou_change", {})
        row = [values.get(column, "") for column in columns]
        row += [difference.get(key, "") for key in ends]
        writer.writerow(row + [changes.get(name, "") for name in changed])
    return stream.getvalue()


def _plot(documents: list[dict], path: pathlib.Path) -> None:
    """Draws the mIoU of each method with the interval of its difference from float."""
    shown = [values for values in documents if "miou" in values]
    figure, panels = plt.subplots(
        1, 2, figsize=(12, 0.3 * len(shown) + 1.2), sharey=True, layout="constrained"
    )
    base = next(values["miou"] for values in shown if values["name"] == REFERENCE)
    for axes in panels:
        for position, values in enumerate(reversed(shown)):
            change = values["difference"] or {"difference": 0.0, "low": 0.0, "high": 0.0}
            # Around the row's own mIoU: the difference may be over other classes.
            middle = values["miou"] - change["difference"]
            ends = [100 * (middle + change[key]) for key in ("low", "high")]
            axes.plot(ends, [position, position], color="tab:blue", linewidth=3, alpha=0.4)
            axes.plot(100 * values["miou"], position, "o", color="tab:blue", markersize=4)
        axes.axvline(100 * base, color="gray", linewidth=1)
    panels[0].set_yticks(range(len(shown)), [values["name"] for values in reversed(shown)])
    panels[0].set_xlabel("mIoU %")
    panels[1].set_xlim(100 * base - NEAR_FLOAT, 100 * base + NEAR_FLOAT / 2)
    panels[1].set_xlabel("near float; line: 95 % interval of the difference")
    with atomic_file.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)

"""Writes results as a terminal table, as JSON and as CSV."""

import io
import itertools
import json
import pathlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics import confusion
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult
from tflite_tools.file_list import UnreadFile, unread_json
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.text_table import CsvWriter, align
from tflite_tools.versions import versions

_SUMMARY = (
    ("model", "<"),
    ("mIoU %", ">"),
    ("classes", ">"),
    ("pixel acc %", ">"),
    ("mean acc %", ">"),
    ("agree %", ">"),
    ("mean loss", ">"),
    ("size MB", ">"),
    ("download MB", ">"),
    ("ms median", ">"),
    ("ms p90", ">"),
    ("memory MB", ">"),
    ("input", "<"),
    ("output", "<"),
)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _tensor(dtype: np.dtype, quantization: tuple[float, int] | None) -> str:
    if quantization is None:
        return str(dtype)
    return f"{dtype} {quantization[0]:.6g}/{quantization[1]}"


def _summary_row(result: ModelResult, mean_over: tuple[int, ...]) -> list[str]:
    contract = result.contract
    columns = [contract.name]
    if result.matrix is None or result.failure:
        columns += ["failed", "-", "-", "-", "-", "-"]
    else:
        score, counted = confusion.mean_iou(result.matrix, mean_over)
        columns += [
            _percent(score),
            str(counted),
            _percent(confusion.pixel_accuracy(result.matrix)),
            _percent(confusion.mean_class_accuracy(result.matrix)),
            _percent(result.agreement),
            "-" if result.mean_loss is None else f"{result.mean_loss:.4f}",
        ]
    latency = result.latency
    columns += [
        f"{contract.size_bytes / 1e6:.2f}",
        f"{contract.download_bytes / 1e6:.2f}",
        f"{latency.median:.1f}" if latency else "-",
        f"{latency.p90:.1f}" if latency else "-",
        f"{result.memory_mb:.0f}" if result.memory_mb is not None else "-",
        _tensor(contract.input_dtype, contract.input_quantization),
        _tensor(contract.output_dtype, contract.output_quantization)
        + (" classes" if contract.classes_output else " logits"),
    ]
    return columns


def terminal_table(
    results: list[ModelResult],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    reference: int | None = None,
) -> str:
    """Formats the summary, the IoU of each class, how it was measured, and every warning.

    Args:
        results: of the files.
        dataset: the list that they were scored on.
        options: of the evaluation.
        reference: index of the file that the others are compared with, or None.
    """
    scored = [result for result in results if result.matrix is not None and not result.failure]
    mean_over = options.mean_indices(dataset)
    rows = [_summary_row(result, mean_over) for result in results]
    shown = [options.mean_loss or title != "mean loss" for title, _ in _SUMMARY]
    rows = [list(itertools.compress(row, shown)) for row in rows]
    parts = [align(list(itertools.compress(_SUMMARY, shown)), rows)]
    if scored:
        header = [("IoU %", "<"), *((result.contract.name, ">") for result in scored)]
        ious = [confusion.iou_per_class(r.matrix) for r in scored if r.matrix is not None]
        rows = [
            [
                name[:24],
                *(_percent(iou[index]) if iou[index] == iou[index] else "-" for iou in ious),
            ]
            for index, name in enumerate(dataset.label_set.names)
        ]
        parts.append(align(header, rows))
        images = scored[0].images
        chosen = f" of {', '.join(options.mean_over)}" if options.mean_over else ""
        line = (
            f"{dataset.name}, split {dataset.split}, {images} images; mIoU over classes{chosen} "
            "with a non-empty union, at the label's own size; " + kernels_line(scored)
        )
        if latency := next((result.latency for result in scored if result.latency), None):
            line += (
                f"; one invoke, {latency.num_threads} thread(s), {latency.warmup} warm-up, "
                f"{latency.repeats} interleaved repeats"
            )
        parts.append(line)
    notes = notes_on_scores(results, dataset, options=options, reference=reference)
    notes += [f"{r.contract.name}: FAILED: {r.failure}" for r in results if r.failure]
    notes += [f"{r.contract.name}: {warning}" for r in results for warning in r.warnings]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def notes_on_scores(
    results: Sequence[ModelResult],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    reference: int | None = None,
) -> list[str]:
    """Says what a reader of the mIoU column must know: other classes, a reference that is worst.

    Args:
        results: of the files.
        dataset: the list that they were scored on.
        options: of the evaluation.
        reference: index of the file that the others are compared with, or None.
    """
    classes = options.mean_indices(dataset)
    matrices = {
        result.contract.name: result.matrix
        for result in results
        if result.matrix is not None and not result.failure
    }
    notes = confusion.notes_on_means(matrices, dataset.label_set.names, classes=classes)
    base = results[reference] if reference is not None else None
    if base is None or base.contract.name not in matrices or len(matrices) < 2:
        return notes
    name = base.contract.name
    own = confusion.counted_classes(matrices[name], classes)
    others = [
        (
            matrix,
            tuple(index for index in confusion.counted_classes(matrix, classes) if index in own),
        )
        for row, matrix in matrices.items()
        if row != name
    ]
    if all(
        confusion.mean_iou(matrix, common)[0] > confusion.mean_iou(matrices[name], common)[0]
        for matrix, common in others
        if common
    ):
        notes.append(
            f"{name}, which the others are compared with, has the lowest mIoU of all; if it is "
            "not the one to compare with, give --reference=FILE"
        )
    return notes


class HasKernels(Protocol):
    """A result of one file."""

    contract: ModelContract
    kernels: Kernels | None


def kernels_line(results: Sequence[HasKernels]) -> str:
    """Names the kernels that ran, and the files that only builtin kernels ran.

    Args:
        results: of the files.
    """
    found = {result.kernels for result in results} - {None}
    if not found:
        return "kernels: not known"
    if len(found) < 2:
        return f"kernels: {found.pop()}"
    alone = [result.contract.name for result in results if result.kernels is Kernels.BUILTIN]
    return f"kernels: {Kernels.XNNPACK}, only {Kernels.BUILTIN} for {', '.join(alone)}"


def result_to_json(
    result: ModelResult, dataset: SegmentationDataset, *, options: EvaluationOptions
) -> dict:
    """Returns everything known of one file, for JSON.

    Args:
        result: of the file.
        dataset: the list that it was scored on.
        options: of the evaluation.
    """
    contract, matrix = result.contract, result.matrix
    values = {
        "model": contract.name,
        "file": contract.path.name,
        "variant": contract.variant,
        "size_bytes": contract.size_bytes,
        "download_bytes": contract.download_bytes,
        "input": {
            "dtype": str(contract.input_dtype),
            "size": [contract.height, contract.width, contract.channels],
            "quantization": contract.input_quantization,
            "mean": contract.preprocessing.mean,
            "std": contract.preprocessing.std,
        },
        "output": {
            "dtype": str(contract.output_dtype),
            "shape": contract.output_shape,
            "quantization": contract.output_quantization,
            "classes": contract.classes_output,
            "resize": contract.alignment.value if contract.alignment else None,
        },
        "kernels": result.kernels,
        "failure": result.failure,
        "warnings": result.warnings,
        "memory_mb": result.memory_mb,
        "agreement": result.agreement,
        "mean_loss": result.mean_loss,
        "constant_images": result.constant_images,
        "latency_ms": vars(result.latency) if result.latency else None,
        "images": result.images,
    }
    if matrix is not None and not result.failure:
        score, counted = confusion.mean_iou(matrix, options.mean_indices(dataset))
        iou = confusion.iou_per_class(matrix)
        values |= {
            "miou": score,
            "classes_counted": counted,
            "pixel_accuracy": confusion.pixel_accuracy(matrix),
            "mean_class_accuracy": confusion.mean_class_accuracy(matrix),
            "iou": {
                name: (value if value == value else None)
                for name, value in zip(dataset.label_set.names, iou.tolist(), strict=True)
            },
            "confusion_matrix": matrix.tolist(),
        }
    return values


def write_metrics(
    results: list[ModelResult],
    dataset: SegmentationDataset,
    *,
    options: EvaluationOptions,
    output_dir: pathlib.Path,
    unread: list[UnreadFile] | None = None,
) -> None:
    """Writes `metrics.json` and `metrics.csv`.

    Args:
        results: of the files.
        dataset: the list that they were scored on.
        options: of the evaluation.
        output_dir: folder to write to.
        unread: files that could not be read, listed with their failure.
    """
    models = [result_to_json(result, dataset, options=options) for result in results]
    document = {
        "dataset": dataset.name,
        "split": dataset.split,
        "options": vars(options),
        "versions": versions(),
        "notes": notes_on_scores(results, dataset, options=options),
        "models": models,
        "unread": unread_json(unread or []),
    }
    atomic_file.write_text(output_dir / "metrics.json", json.dumps(document, indent=1) + "\n")
    stream = io.StringIO()
    writer = CsvWriter(stream)
    names = dataset.label_set.names
    writer.writerow(
        ["model", "images", "miou", "classes_counted", "pixel_accuracy", "mean_class_accuracy"]
        + ["agreement", "mean_loss", "size_bytes", "download_bytes", "latency_ms_median"]
        + ["memory_mb", "failure"]
        + [f"iou {name}" for name in names]
    )
    for model in models:
        latency = model["latency_ms"]
        writer.writerow(
            [model["model"], model["images"]]
            + [model.get(k, "") for k in ("miou", "classes_counted", "pixel_accuracy")]
            + [model.get("mean_class_accuracy", ""), model["agreement"], model["mean_loss"]]
            + [model["size_bytes"], model["download_bytes"]]
            + [latency["median"] if latency else "", model["memory_mb"], model["failure"]]
            + [model.get("iou", {}).get(name, "") for name in names]
        )
    for file in unread or []:  # only name and failure are known
        writer.writerow([file.name, 0, *[""] * 10, file.failure, *[""] * len(names)])
    atomic_file.write_text(output_dir / "metrics.csv", stream.getvalue())

"""Shows a comparison of quantization methods: table, JSON, CSV, plot."""

import dataclasses
import io
import json
import math
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import Interval
from export.experiments.comparison import (
    REFERENCE,
    SIGNAL_IMAGES,
    Comparison,
    ComparisonResult,
    ComparisonRow,
)
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult
from tflite_tools.text_table import CsvWriter, align
from tflite_tools.versions import versions

JSON, CSV, PLOT = "ladder.json", "ladder.csv", "ladder.png"
"""Files of a comparison. These names, and "rungs" in the JSON, are kept for programs that read
them."""
NEAR_FLOAT = 3.0
"""Points of mIoU below float that the second panel of the plot shows."""

_HEADER = [
    *[("quantization", "<"), ("mIoU %", ">"), ("from float", ">"), ("95 % interval", ">")],
    ("over", ">"),
    *[
        ("worst class", ">"),
        ("dB", ">"),
        ("MB", ">"),
        ("download MB", ">"),
        ("ms", ">"),
        ("minutes", ">"),
    ],
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
            lines.append([row.name, "failed", *["-"] * 9])
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
                _ends(change) if change else "",
                change.basis if change else "",
                _worst_class(row.result, base, dataset=dataset) if change else "",
                f"{row.snr_db:.1f}" if row.snr_db is not None else "",
                f"{row.result.contract.size_bytes / 1e6:.2f}",
                f"{row.result.contract.download_bytes / 1e6:.2f}",
                f"{latency.median:.1f}" if latency else "-",
                f"{row.minutes:.1f}",
            ]
        )
    images = base.images if base is not None else 0
    compared = min(images, SIGNAL_IMAGES)
    notes = [
        f"{dataset.name}, split {dataset.split}, {images} images; ~: zero lies inside the interval "
        f"(paired bootstrap over the units named) or is not known; dB: logits against float's, "
        f"{compared} images",
        *uneven,
        *(f"{row.name}: FAILED: {row.failure}" for row in rows if row.failure),
    ]
    return "\n\n".join([align(_HEADER, lines), "\n".join(notes)])


def _ends(change: Interval) -> str:
    return "too few" if change.too_few else f"{100 * change.low:+.2f} {100 * change.high:+.2f}"


def comparison_text(result: ComparisonResult, comparison: Comparison) -> str:
    """Formats the tables of a comparison and the best of it.

    Args:
        result: of the comparison.
        comparison: its lists and options.
    """
    parts = [comparison_table(result.rows, comparison.evaluation, options=comparison.options)]
    if result.selection and comparison.selection is not None:
        on_selection = dataclasses.replace(comparison.options, latency_repeats=0, limit=0)
        parts.insert(
            0, comparison_table(result.selection, comparison.selection, options=on_selection)
        )
    return "\n\n".join(filter(None, [*parts, selection_text(result, comparison)]))


def selection_text(result: ComparisonResult, comparison: Comparison) -> str:
    """Says which method is the best, on which list it was chosen, and what it costs there.

    Args:
        result: of the comparison.
        comparison: its lists.

    Returns:
        the text; "" if no method has a difference from float.
    """
    change = result.best_difference
    if change is None:
        return ""
    found = f"{result.best} {100 * change.difference:+.2f} from float"
    interval = f"95 % interval {_ends(change)}, {change.basis}"
    if result.selection and comparison.selection is not None:
        count = sum(row.difference is not None for row in result.selection)
        held = comparison.selection
        return (
            f"chosen of {count} on {held.name}, split {held.split}, {len(held)} images; on "
            f"{comparison.evaluation.split}: {found}, {interval}"
        )
    return (
        f"highest of {change.compared} on this very list: {found}; {interval}, widened for the "
        "choice. --select_on=holdout chooses on other images"
    )


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
    result: ComparisonResult, comparison: Comparison, *, output_dir: pathlib.Path
) -> None:
    """Writes `ladder.json`, `ladder.csv` and `ladder.png`.

    Args:
        result: rows of the methods.
        comparison: its lists and options.
        output_dir: folder of the files.
    """
    dataset, options = comparison.evaluation, comparison.options
    documents = _documents(result.rows, dataset, options=options)
    text = {
        "dataset": dataset.name,
        "split": dataset.split,
        "options": vars(options),
        "versions": versions(),
        "rungs": documents,
        "best": result.best or None,
        "best_difference": result.best_difference and result.best_difference.to_json(),
    }
    if comparison.selection is not None:
        held = comparison.selection
        text["selection"] = {
            "split": held.split,
            "images": len(held),
            "rungs": _documents(result.selection, held, options=options),
        }
    atomic_file.write_text(output_dir / JSON, json.dumps(text, indent=1) + "\n")
    atomic_file.write_text(output_dir / CSV, _csv(documents))
    _plot(documents, output_dir / PLOT)


def _documents(
    rows: list[ComparisonRow], dataset: SegmentationDataset, *, options: EvaluationOptions
) -> list[dict]:
    """Returns the rows as plain values."""
    classes = options.mean_indices(dataset)
    base = next(row.result for row in rows if row.name == REFERENCE)
    documents = []
    for row in rows:
        values: dict = {"name": row.name, "minutes": row.minutes, "failure": row.failure}
        if row.result is not None and row.result.matrix is not None:
            latency = row.result.latency
            miou, counted = confusion.mean_iou(row.result.matrix, classes)
            values |= {
                "miou": miou,
                "classes_counted": counted,
                "difference": row.difference.to_json() if row.difference else None,
                "changed_over": [dataset.label_set.names[index] for index in row.changed_over],
                "iou_change": _class_changes(row.result, base, dataset=dataset),
                "snr_db": row.snr_db,
                "size_bytes": row.result.contract.size_bytes,
                "download_bytes": row.result.contract.download_bytes,
                "latency_ms": latency.median if latency else None,
                "images": row.result.images,
            }
        documents.append(values)
    return documents


def _csv(documents: list[dict]) -> str:
    stream = io.StringIO()
    writer = CsvWriter(stream)
    columns = (
        *("name", "miou", "snr_db", "size_bytes", "download_bytes", "latency_ms", "minutes"),
        *("images", "failure"),
    )
    ends = ("difference", "low", "high", "unit", "units", "independent")
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
            known = change["low"] is not None
            ends = [100 * (middle + change[key]) for key in ("low", "high")] if known else []
            axes.plot(ends, [position] * len(ends), color="tab:blue", linewidth=3, alpha=0.4)
            axes.plot(100 * values["miou"], position, "o", color="tab:blue", markersize=4)
        axes.axvline(100 * base, color="gray", linewidth=1)
    panels[0].set_yticks(range(len(shown)), [values["name"] for values in reversed(shown)])
    panels[0].set_xlabel("mIoU %")
    panels[1].set_xlim(100 * base - NEAR_FLOAT, 100 * base + NEAR_FLOAT / 2)
    panels[1].set_xlabel("near float; line: 95 % interval of the difference")
    with atomic_file.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)

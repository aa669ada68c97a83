"""Says what a compression chose and why: text, CSV, JSON and a plot."""

import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from deeplab_tf import atomic_file
from export.compression.budgets import MIOU, Measured
from export.compression.compression import Attempt, Compression, CompressionPlan
from export.compression.network_costs import BYTES, DOWNLOAD, MS, times_to_json
from export.compression.number_format import NumberFormat
from export.compression.solver import LOSS
from tflite_tools.json_values import finite
from tflite_tools.text_table import CsvWriter, align
from tflite_tools.versions import versions

JSON, CSV, PLOT, TEXT = (f"compression.{ending}" for ending in ("json", "csv", "png", "txt"))
_WORDS = {
    MS: "time",
    BYTES: "file size",
    DOWNLOAD: "download size",
    MIOU: "mIoU loss",
}
_UNITS = {MS: ("ms", 1.0), BYTES: ("MB", 1e-6), DOWNLOAD: ("MB", 1e-6), MIOU: ("points", 100.0)}
_COLUMNS = ("group", "layers", "channels", "kept", "db_alone", "ms_saved_alone", "kb_saved_alone")


def rows_of(result: Compression) -> list[dict]:
    """Returns one row per group of channels: what was kept, what that alone costs and saves.

    Args:
        result: of the compression.
    """
    chosen = result.attempts[result.chosen].choice
    rows = []
    for group in result.channels.groups:
        option = chosen.groups[group.name]
        saved = {
            name: cost.at({}) - cost.at({group.name: option.share})
            for name, cost in result.costs.polynomials.items()
        }
        rows.append(
            {
                "group": group.name,
                "layers": len(group.producers),
                "channels": len(group.channels),
                "kept": option.kept,
                "db_alone": _decibels(result.losses.signal, option.loss),
                "ms_saved_alone": saved[MS],
                "kb_saved_alone": saved[BYTES] / 1e3,
            }
        )
    return rows


def _decibels(signal: float, loss: float) -> float:
    return 10 * math.log10(signal / loss) if loss > 0 else math.inf


def _alone(row: dict) -> str:
    if row["kept"] == row["channels"]:
        return "-"
    return "exact" if math.isinf(row["db_alone"]) else f"{row['db_alone']:.1f}"


def text_of(result: Compression, plan: CompressionPlan) -> str:
    """Formats what was chosen, what was measured and which budgets are met.

    Args:
        result: of the compression.
        plan: its settings.
    """
    attempt = result.attempts[result.chosen]
    header = [
        *[("channels of", "<"), ("layers", ">"), ("all", ">"), ("kept", ">"), ("kept %", ">")],
        *[("dB alone", ">"), ("saves ms", ">"), ("saves kB", ">")],
    ]
    lines = [
        [
            *(row["group"], str(row["layers"]), str(row["channels"]), str(row["kept"])),
            f"{100 * row['kept'] / row['channels']:.0f}",
            _alone(row),
            f"{row['ms_saved_alone']:.3f}",
            f"{row['kb_saved_alone']:.1f}",
        ]
        for row in rows_of(result)
    ]
    notes = [
        "dB alone: logits of the network with only this group cut against the whole network's, on "
        f"{min(plan.loss_images, len(plan.held_out))} held-out images; saves: predicted, if only "
        f"this group is cut ({result.costs.source})"
    ]
    if others := _formats(attempt):
        notes.append("not int8: " + ", ".join(f"{n} ({kind})" for n, kind in others.items()))
    kept = [f"{name}: {why}" for name, why in result.channels.fixed.items()]
    notes.append("channels that stay: " + "; ".join(kept))
    return "\n\n".join(
        [
            align(header, lines),
            "\n".join(notes),
            _measured_table(attempt, result),
            "\n".join(_verdict(attempt, plan)),
        ]
    )


def _formats(attempt: Attempt) -> dict[str, str]:
    return {
        name: option.name
        for name, option in attempt.choice.layers.items()
        if option.name != NumberFormat.INT8.value
    }


def _measured_table(attempt: Attempt, result: Compression) -> str:
    header = [("int8 file", "<"), ("mIoU %", ">"), ("time", ">"), ("ms", ">"), ("MB", ">")]
    header += [("download MB", ">"), ("weights", ">")]
    base = attempt.base
    rows = [
        [
            *(name, f"{100 * file.miou:.2f}", f"{file.ms / base.ms:.3f}", f"{file.ms:.2f}"),
            *(f"{size / 1e6:.2f}" for size in (file.size_bytes, file.download_bytes)),
            str(weights),
        ]
        for name, file, weights in (
            ("uncompressed", base, result.weights),
            ("compressed", attempt.measured, attempt.weights),
        )
    ]
    return align(header, rows)


def _verdict(attempt: Attempt, plan: CompressionPlan) -> list[str]:
    """Returns one line per budget: met or MISSED, with the numbers."""
    limits = plan.budgets.limits(attempt.base) | plan.budgets.loss_limit()
    lines = []
    for name, part in attempt.excess.items():
        unit, factor = _UNITS[name]
        value = factor * attempt.measured.value(name, attempt.base)
        word = "met" if part <= 1 else "MISSED"
        limit = factor * limits[name]
        lines.append(f"{_WORDS[name]}: {word}, {value:.4g} {unit} of {limit:.4g} {unit}")
    return lines


def write_report(result: Compression, plan: CompressionPlan) -> None:
    """Writes `compression.json`, `.csv`, `.txt` and `.png` into the folder of the run.

    Args:
        result: of the compression.
        plan: its settings.
    """
    folder, rows = plan.output_dir, rows_of(result)
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.writerow(_COLUMNS)
    for row in rows:
        writer.writerow([row[name] for name in _COLUMNS])
    atomic_file.write_text(folder / CSV, stream.getvalue())
    atomic_file.write_text(folder / TEXT, text_of(result, plan) + "\n")
    document = {
        "dataset": plan.held_out.name,
        "held_out_images": len(plan.held_out),
        "calibration_images": plan.calibration_images,
        "importance": plan.importance.value,
        "budgets": dataclasses.asdict(plan.budgets),
        "chosen": result.chosen,
        "attempts": [_attempt_to_json(attempt) for attempt in result.attempts],
        "groups": rows,
        "fixed": result.channels.fixed,
        "costs": times_to_json(result.costs),
        "cost_source": result.costs.source,
        "pareto_predicted": result.pareto,
        "versions": versions(),
    }
    content = json.dumps(finite(document), indent=1, allow_nan=False) + "\n"
    atomic_file.write_text(folder / JSON, content)
    _plot(result, path=folder / PLOT)


def _attempt_to_json(attempt: Attempt) -> Mapping[str, object]:
    def values(file: Measured) -> dict[str, object]:
        return dataclasses.asdict(file)

    return {
        "measured": values(attempt.measured),
        "uncompressed": values(attempt.base),
        "excess": attempt.excess,
        "predicted": attempt.choice.costs,
        "weights": attempt.weights,
        "kept": {name: option.kept for name, option in attempt.choice.groups.items()},
        "formats": _formats(attempt),
    }


def _plot(result: Compression, *, path: pathlib.Path) -> None:
    """Draws the predicted front, and what the finished files measured."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    signal = result.losses.signal
    left.plot(
        [part for part, _ in result.pareto],
        [_decibels(signal, loss) for _, loss in result.pareto],
        "o-",
        label="best choice for a time",
    )
    whole = result.costs.polynomials[MS].at({})
    for number, attempt in enumerate(result.attempts):
        own = number == result.chosen
        color = "tab:red" if own else "tab:gray"
        costs = attempt.choice.costs
        left.plot(costs[MS] / whole, _decibels(signal, costs[LOSS]), "D", color=color)
        right.plot(
            attempt.measured.ms / attempt.base.ms,
            100 * attempt.measured.miou,
            "D",
            color=color,
            label="compressed" if own else None,
        )
    right.plot(1.0, 100 * result.attempts[0].base.miou, "s", color="black", label="uncompressed")
    left.set_title("predicted, before kernels are fitted again in order", fontsize=9)
    left.set_ylabel("signal-to-noise ratio of the logits, dB")
    right.set_title("finished int8 files", fontsize=9)
    right.set_ylabel("mIoU on held-out images, %")
    for axes in (left, right):
        axes.set_xlabel("part of the uncompressed file's time")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    with atomic_file.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)

"""Ranks the layers of a network by their quantization loss: table, JSON, CSV and plot.

Calibration and scoring images are disjoint parts of the training list, so that layers are not
chosen on the list that results are reported on.
"""

import dataclasses
import io
import json
import pathlib

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from absl import logging

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import Preprocessing, place, place_label
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from deeplab_tf.quantization.ptq.sensitivity import (
    NetworkScorer,
    Score,
    Sensitivity,
    SwitchedNetwork,
    choose_float_units,
    measure_sensitivity,
)
from export.conversion.calibration import disjoint_samples
from export.conversion.source import Source
from tflite_tools.html_report.charts import TEXT_AS_IT_IS
from tflite_tools.json_values import finite
from tflite_tools.text_table import CsvWriter, align
from tflite_tools.versions import versions


@dataclasses.dataclass(frozen=True)
class SensitivityPlan:
    """What to measure.

    Attributes:
        source: a float network.
        height: of its input.
        width: of its input.
        preprocessing: normalization of its input.
        dataset: list that calibration and scoring images come from.
        calibration_images: how many ranges are calibrated on.
        score_images: how many layers are scored on.
        seed: of the choice of images.
        steps: post-training steps that are applied first, without AdaRound and bias correction.
        budget: mIoU that may be lost, or None for the ranking only.
    """

    source: Source
    height: int
    width: int
    preprocessing: Preprocessing
    dataset: SegmentationDataset
    calibration_images: int
    score_images: int
    seed: int
    steps: PostTraining
    budget: float | None = None


@dataclasses.dataclass(frozen=True)
class Choice:
    """The layers to keep in float for a mIoU budget.

    Attributes:
        budget: mIoU that may be lost, fraction.
        keep_float: the layers, most costly first.
        score: of the network with these layers float and the others integer.
    """

    budget: float
    keep_float: tuple[str, ...]
    score: Score


def rank_layers(plan: SensitivityPlan) -> tuple[Sensitivity, Choice | None]:
    """Measures every layer of a network.

    Args:
        plan: what to measure.

    Returns:
        the measurement, and the layers to keep in float if the plan has a budget.

    Raises:
        ValueError: too few images in the list, or a layer without an integer form.
    """
    calibration, scored = disjoint_samples(
        plan.dataset, (plan.calibration_images, plan.score_images), seed=plan.seed
    )
    images = _images(plan, calibration)
    empty = plan.steps.ignore_empty or plan.dataset.sensor is not None
    done = quantize_post_training(
        plan.source.float_model(plan.height, plan.width),
        dataclasses.replace(plan.steps, ignore_empty=empty),
        batches=[images[start : start + 4] for start in range(0, len(images), 4)],
        input_range=plan.preprocessing.input_range,
    )
    network = SwitchedNetwork(
        done.description, done.arrays, ranges=done.ranges, per_channel=plan.steps.per_channel
    )
    labels = np.stack(
        [
            place_label(plan.dataset.label(index), (plan.height, plan.width), fill=IGNORE_LABEL)
            for index in scored
        ]
    )
    judge = NetworkScorer(
        network,
        _images(plan, scored),
        labels=labels,
        num_classes=plan.dataset.label_set.num_classes,
        alignment=plan.source.logits_alignment,
    )
    count = 0

    def progress(_: object) -> None:
        nonlocal count
        count += 1
        if count % 10 == 0 or count == len(network.units):
            logging.info("%d of %d layers measured", count, len(network.units))

    found = measure_sensitivity(network.units, judge, images=len(scored), progress=progress)
    if plan.budget is None:
        return found, None
    names, score = choose_float_units(found, judge, budget=plan.budget)
    return found, Choice(plan.budget, names, score=score)


def _images(plan: SensitivityPlan, indices: list[int]) -> np.ndarray:
    pixels = [place(plan.dataset.image(i), (plan.height, plan.width))[0] for i in indices]
    return plan.preprocessing.normalize(np.stack(pixels))


_COLUMNS = ("miou_only_integer", "snr_db_only_integer", "miou_only_float", "snr_db_only_float")


def _rows(found: Sensitivity) -> list[dict]:
    rows = []
    for unit, integer, floating in zip(
        found.units, found.only_integer, found.only_float, strict=True
    ):
        values = (integer.miou, integer.snr_db, floating.miou, floating.snr_db)
        rows.append(
            {"layer": unit.name, "layers": list(unit.layers), "weights": unit.weights}
            | dict(zip(_COLUMNS, values, strict=True))
        )
    return rows


def sensitivity_table(found: Sensitivity, choice: Choice | None) -> str:
    """Formats the ranking as text.

    Args:
        found: the measurement.
        choice: layers to keep in float, or None.

    Returns:
        the table and its notes.
    """
    header = [
        *[("layer", "<"), ("weights", ">"), ("integer alone: dB", ">"), ("mIoU %", ">")],
        *[("float alone: dB", ">"), ("mIoU %", ">")],
    ]
    lines = [
        [
            *(row["layer"], str(row["weights"])),
            *(f"{row['snr_db_only_integer']:.1f}", f"{100 * row['miou_only_integer']:.2f}"),
            *(f"{row['snr_db_only_float']:.1f}", f"{100 * row['miou_only_float']:.2f}"),
        ]
        for row in _rows(found)
    ]
    notes = [
        f"all float {100 * found.all_float.miou:.2f} %, all integer "
        f"{100 * found.all_integer.miou:.2f} % ({found.all_integer.snr_db:.1f} dB); simulated, "
        f"{found.images} images of the training list"
    ]
    if choice is not None:
        notes.append(
            f"within {100 * choice.budget:.2f} points of float: {len(choice.keep_float)} of "
            f"{len(found.units)} layers float, {100 * choice.score.miou:.2f} %"
        )
        notes.append(f"--keep_float={','.join(choice.keep_float)}")
    return "\n\n".join([align(header, lines), "\n".join(notes)])


def write_sensitivity(
    plan: SensitivityPlan, found: Sensitivity, *, choice: Choice | None, folder: pathlib.Path
) -> None:
    """Writes `sensitivity.json`, `sensitivity.csv` and `sensitivity.png`.

    Args:
        plan: what was measured.
        found: the measurement.
        choice: layers to keep in float, or None.
        folder: of the files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = _rows(found)
    text = {
        "dataset": plan.dataset.name,
        "split": plan.dataset.split,
        "calibration_images": plan.calibration_images,
        "score_images": found.images,
        "seed": plan.seed,
        "steps": plan.steps.to_json(),
        "all_float": dataclasses.asdict(found.all_float),
        "all_integer": dataclasses.asdict(found.all_integer),
        "choice": dataclasses.asdict(choice) if choice else None,
        "layers": rows,
        "versions": versions(),
    }
    content = json.dumps(finite(text), indent=1, allow_nan=False) + "\n"
    atomic_file.write_text(folder / "sensitivity.json", content)
    stream = io.StringIO()
    writer, columns = CsvWriter(stream), ("layer", "weights", *_COLUMNS)
    writer.writerow(columns)
    for row in rows:
        writer.writerow([row.get(column, "") for column in columns])
    atomic_file.write_text(folder / "sensitivity.csv", stream.getvalue())
    _plot(found, rows, path=folder / "sensitivity.png")


@TEXT_AS_IT_IS
def _plot(found: Sensitivity, rows: list[dict], *, path: pathlib.Path) -> None:
    """Draws the signal-to-noise ratio of each layer, the most costly on top."""
    figure, axes = plt.subplots(figsize=(8, 0.19 * len(rows) + 1.2), layout="constrained")
    positions = range(len(rows) - 1, -1, -1)
    axes.plot([row["snr_db_only_integer"] for row in rows], positions, "o", label="integer alone")
    axes.plot([row["snr_db_only_float"] for row in rows], positions, "x", label="float alone")
    axes.axvline(found.all_integer.snr_db, color="gray", linewidth=1, label="all integer")
    axes.set_yticks(list(positions), [row["layer"] for row in rows], fontsize=6)
    axes.set_ylim(-1, len(rows))
    axes.set_xlabel("signal-to-noise ratio of the logits against float, dB")
    axes.legend()
    with atomic_file.atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    plt.close(figure)

"""Scores `.tflite` files of range images over LiDAR points, as SemanticKITTI's benchmark does.

    python -m tflite_tools.evaluate_points --model=a.tflite,b.tflite --data_dir=DIR \
        --split=val --knn

The row `labels` scores the range image's own labels, projected to the points: the score of a
network that predicts its training labels without an error. Points that share a pixel get one class;
giving each pixel the class of most of its points, not of the nearest, would score a little higher.
"""

import pathlib
import sys

import numpy as np
from absl import flags

from deeplab_tf import command
from deeplab_tf.data.readers.semantic_kitti import LidarDataset, open_split
from deeplab_tf.metrics import confusion
from tflite_tools.evaluation.evaluation import default_processes
from tflite_tools.evaluation.points import (
    CEILING,
    Neighbours,
    PointScores,
    benchmark_mean_iou,
    score_points,
)
from tflite_tools.evaluation.request import table_names
from tflite_tools.file_list import read_contracts, unread_text
from tflite_tools.text_table import align

FLAGS = flags.FLAGS
_SUMMARY = (
    ("points", "<"),
    ("accuracy %", ">"),
    ("mIoU %", ">"),
    ("classes", ">"),
)


def _define_flags() -> None:
    flags.DEFINE_list("model", None, "Files to score.", required=True)
    flags.DEFINE_string("data_dir", None, "Scans, or the folder of a sensor.json.", required=True)
    flags.DEFINE_string("split", "val", "Scans to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many scans; 0 = all.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one per core.")
    flags.DEFINE_bool("knn", False, "Also score after a vote of nearest neighbours.")


def report(scores: PointScores, dataset: LidarDataset) -> str:
    """Formats the summary, the IoU of each class, how it was counted, and every warning.

    Args:
        scores: of the files.
        dataset: the scans that were scored.
    """
    rows = _rows(scores)
    classes = dataset.label_set.num_classes
    parts = [align([*_SUMMARY, (f"mIoU % of {classes}", ">")], [_summary(*row) for row in rows])]
    ious = [confusion.iou_per_class(matrix) for _, matrix in rows]
    table = [
        [name, *("-" if np.isnan(iou[index]) else f"{100 * iou[index]:.2f}" for iou in ious)]
        for index, name in enumerate(dataset.label_set.names)
    ]
    parts.append(align([("IoU %", "<"), *((name, ">") for name, _ in rows)], table))
    line = (
        f"{dataset.name}, split {dataset.split}, {scores.scans} scans, "
        f"{scores.ceiling[0].sum()} labelled points; mIoU over classes with a non-empty union, "
        f"and over all {classes} with absent ones as 0 (the benchmark's); range image "
        f"{dataset.sensor.height} x {dataset.sensor.width}"
    )
    if outside := scores.outside.sum():
        line += f"; {outside} labelled points lie in no pixel and count as wrong"
    parts.append(line)
    notes = confusion.notes_on_means(dict(rows), dataset.label_set.names)
    notes += [f"{r.contract.name}: FAILED: {r.failure}" for r in scores.files if r.failure]
    notes += [f"{r.contract.name}: {warning}" for r in scores.files for warning in r.warnings]
    if notes:
        parts.append("\n".join(notes))
    return "\n\n".join(parts)


def _rows(scores: PointScores) -> list[tuple[str, np.ndarray]]:
    """Returns the name and matrix of each column of the tables."""
    rows = [
        (file.contract.name, pair)
        for file, pair in zip(scores.files, scores.matrices, strict=True)
        if not file.failure
    ]
    return [
        (name + suffix, matrix)
        for name, pair in [*rows, (CEILING, scores.ceiling)]
        for suffix, matrix in zip(("", " + knn"), pair, strict=False)
    ]


def _summary(name: str, matrix: np.ndarray) -> list[str]:
    score, counted = confusion.mean_iou(matrix)
    shares = (confusion.pixel_accuracy(matrix), score, benchmark_mean_iou(matrix))
    accuracy, miou, benchmark = (f"{100 * share:.2f}" for share in shares)
    return [name, accuracy, miou, str(counted), benchmark]


def main() -> int:
    """Scores the files over points and prints the tables.

    Returns:
        1 if a file could not be read or failed, else 0.
    """
    paths = [pathlib.Path(name) for name in FLAGS.model if name]
    if not paths:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    contracts, unread = read_contracts(paths, table_names(paths))
    data_dir = pathlib.Path(FLAGS.data_dir)
    if not data_dir.is_dir():
        raise FileNotFoundError(f"{data_dir}: no such folder; check --data_dir")
    dataset = open_split(data_dir, FLAGS.split)
    scores = score_points(
        contracts,
        dataset,
        processes=FLAGS.processes or default_processes(),
        limit=FLAGS.limit,
        neighbours=Neighbours() if FLAGS.knn else None,
    )
    sys.stdout.write(report(scores, dataset) + "\n")
    if unread:
        sys.stdout.write(unread_text(unread) + "\n")
    return 1 if unread or any(result.failure for result in scores.files) else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

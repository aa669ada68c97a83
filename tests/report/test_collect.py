"""Numbers of a report: changes, intervals and which photos are shown."""

import json
import math
import re

import numpy as np
import pytest

from deeplab_tf.data import confusion
from deeplab_tf.data.registry import open_dataset
from tests.zoo import CAMVID
from tflite_tools.bootstrap import miou_difference
from tflite_tools.contract import read_contract
from tflite_tools.evaluation import EvaluationOptions, ModelResult
from tflite_tools.html_report import charts, page, pictures
from tflite_tools.html_report.collect import FileReport, Report, change_of, overlap, shares
from tflite_tools.html_report.model_card import model_card
from tflite_tools.latency import LatencyMs

CLASSES = 7


def random_matrices(seed, photos=12):
    rng = np.random.default_rng(seed)
    matrices = rng.integers(0, 40, (photos, CLASSES, CLASSES + 1)).astype(np.uint32)
    matrices[:, range(CLASSES), range(CLASSES)] += 300
    return matrices


def report_of(*stacks, reference=0):
    """A report on drawn scenes with planted matrices; nothing is run."""
    files = []
    for number, stack in enumerate(stacks):
        result = ModelResult(read_contract(CAMVID / "int8.tflite", name=f"file{number}"))
        result.matrix, result.image_matrices = stack.sum(0, dtype=np.int64), stack
        result.images = len(stack)
        files.append(FileReport(result, None, overlap(stack)))
    dataset = open_dataset("synthetic", None, "val")
    return Report(dataset, EvaluationOptions(), files, reference, "typed")


def test_overlaps_hold_all_that_iou_needs():
    matrices = random_matrices(0)
    np.testing.assert_allclose(
        shares(overlap(matrices).sum(0)), confusion.iou_per_class(matrices.sum(0))
    )


def test_change_equals_the_bootstrap_of_the_matrices():
    first, second = random_matrices(1), random_matrices(2)
    for classes in ((), (0, 3)):
        expected = miou_difference(first, second, classes)
        found = change_of(overlap(first), overlap(second), classes)
        assert found.difference == pytest.approx(expected.difference)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_class_without_a_pixel_has_no_change_and_rare_ones_raise_no_warning():
    matrices = random_matrices(3)
    matrices[:, 4], matrices[:, :, 4] = 0, 0
    matrices[1:, 5], matrices[1:, :, 5] = 0, 0  # one photo of twelve
    document = report_of(matrices, matrices).document()
    change = document["models"][1]["iou_change"]
    assert change["tree"] is None
    assert change["pole"] == {"difference": 0.0, "low": 0.0, "high": 0.0}
    assert document["models"][1]["iou"]["tree"] is None
    json.dumps(document, allow_nan=False)


def test_a_planted_loss_is_found_in_its_class_and_nowhere_else():
    first = random_matrices(4)
    second = first.copy()
    second[:, 6, 0] += 200
    second[:, 6, 6] -= 200  # vehicles that became sky
    document = report_of(first, second).document()
    changed = {name: c["difference"] for name, c in document["models"][1]["iou_change"].items()}
    assert changed["vehicle"] < -0.2
    assert changed["sky"] < -0.1
    assert [changed[name] for name in ("road", "tree", "pole")] == [0, 0, 0]
    name, worst = page.worst_change(document["models"][1])
    assert (name, worst["high"] < 0) == ("vehicle", True)
    (sentence,) = page.findings(document)
    assert sentence.startswith("file1: −")  # noqa: RUF001
    assert "hurt most: vehicle" in sentence


def test_without_a_reference_nothing_is_compared():
    document = report_of(random_matrices(5), random_matrices(6), reference=None).document()
    assert document["reference"] is None
    assert "miou_change" not in document["models"][1]
    assert page.findings(document) == []
    card = model_card(document)
    assert "| file1 |" in card
    assert "Changes are against" not in card


def test_truth_counts_pixels_and_photos_of_each_class():
    matrices = random_matrices(7)
    matrices[3:, 2] = 0
    entry = report_of(matrices).document()["classes"][2]
    assert entry["name"] == "road"
    assert entry["images"] == 3
    assert entry["truth_pixels"] == matrices[:3, 2].sum()


def test_worst_best_and_most_lost_photos_are_the_planted_ones():
    first = random_matrices(8)
    second = first.copy()

    def miss(stack, photo, pixels):
        stack[photo, 6, 6] -= pixels
        stack[photo, 6, 0] += pixels

    for stack in (first, second):
        stack[5, 6, :], stack[5, :, 6], stack[5, 6, 6] = 0, 0, 300  # nothing wrong at all
        miss(stack, 7, 290)  # as bad in both
    miss(second, 2, 250)
    first[9, 6], second[9, 6] = 0, 0
    first[9, 6, 0] = second[9, 6, 0] = 1  # one single pixel, missed: IoU 0, but nobody cares
    entries = [e for e in pictures.choose(report_of(first, second)) if e.label == 6]
    photos = {kind: [e.photo for e in entries if e.kind == kind] for kind in pictures.LISTS}
    assert photos == {"worst": [7, 2], "best": [5, photos["best"][1]], "lost": [2]}
    assert {entry.file for entry in entries} == {1}
    lost = next(entry for entry in entries if entry.kind == "lost")
    assert lost.reference_iou - lost.iou > 0.4


def test_differences_say_who_is_right():
    truth = np.array([[0, 0, 0, 1, 1, 255]], np.uint8)
    reference = np.array([[0, 0, 1, 2, 0, 0]], np.uint8)
    mask = np.array([[0, 1, 0, 0, 0, 1]], np.uint8)
    same, lost, won, other, ignored = range(5)
    assert pictures.differences(truth, mask, reference, 3).tolist() == [
        [same, lost, won, other, same, ignored]
    ]
    assert pictures.differences(truth, mask, None, 3).tolist() == [
        [same, lost, same, lost, lost, ignored]
    ]


def test_wide_axes_are_logarithmic_and_labelled_in_plain_numbers():
    report = report_of(random_matrices(12), random_matrices(13))
    for file, milliseconds in zip(report.files, (8.0, 1200.0), strict=True):
        file.result.latency = LatencyMs(*[milliseconds] * 3, num_threads=1, warmup=1, repeats=5)
    text = charts.trade_off(report.document())
    ticks = [float(n) for n in re.findall(r">([\d.]+)</text>", text)]
    assert {10, 100, 1000} <= set(ticks)
    assert "mathdefault" not in text


def test_csv_has_one_line_a_file_and_a_column_for_every_number():
    text = page.metrics_csv(report_of(random_matrices(9), random_matrices(10)).document())
    header, *rows = [line.split(",") for line in text.splitlines()]
    assert len(rows) == 2
    assert {len(row) for row in rows} == {len(header)}
    second = dict(zip(header, rows[1], strict=True))
    assert math.isclose(
        float(second["miou"]) - float(rows[0][header.index("miou")]),
        float(second["miou_change_difference"]),
    )


def test_model_card_names_weak_and_missing_classes_and_cannot_be_broken_by_a_name():
    matrices = random_matrices(11)
    matrices[:, 3], matrices[:, :, 3] = 0, 0
    matrices[:, 5, 0] += 4000
    document = report_of(matrices).document()
    document["classes"][0]["name"] = "sky|blue"
    document["models"][0]["iou"]["sky|blue"] = document["models"][0]["iou"].pop("sky")
    card = model_card(document, {"dataset": "synthetic", "train_steps": 10, "model": None})
    assert "- pole: IoU" in card
    assert "- building does not occur in this list" in card
    assert "| sky\\|blue |" in card
    assert "| steps | 10 |" in card
    tables = [line for line in card.splitlines() if line.startswith("| sky")]
    assert tables[0].replace("\\|", "").count("|") == 4

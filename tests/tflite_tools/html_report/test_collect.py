"""Numbers of a report: changes, intervals and which photos are shown."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import miou_difference
from deeplab_tf.metrics.overlap import iou_from_counts, mean_iou_change, overlap
from deeplab_tf.metrics.resampling import Dependence
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult
from tflite_tools.evaluation.tables import terminal_table, write_metrics
from tflite_tools.html_report import charts, formats, page, pictures, summary
from tflite_tools.html_report.collect import FileReport, Report
from tflite_tools.html_report.model_card import model_card
from tflite_tools.runtime.latency import LatencyMs

CLASSES = 7
ALONE = Dependence(tuple(f"photo {number}" for number in range(12)))


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
        files.append(FileReport(result, None, overlap=overlap(stack)))
    dataset = open_dataset("synthetic", None, split="val")
    return Report(dataset, EvaluationOptions(), files=files, reference=reference, command="typed")


def test_overlaps_hold_all_that_iou_needs():
    matrices = random_matrices(0)
    np.testing.assert_allclose(
        iou_from_counts(overlap(matrices).sum(0)), confusion.iou_per_class(matrices.sum(0))
    )


def test_change_equals_the_bootstrap_of_the_matrices():
    first, second = random_matrices(1), random_matrices(2)
    for classes in (tuple(range(CLASSES)), (0, 3)):
        how = {"classes": classes, "dependence": ALONE}
        expected = miou_difference(first, second, **how)
        found = mean_iou_change(overlap(first), overlap(second), **how)
        assert found.difference == pytest.approx(expected.difference)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_class_without_a_pixel_has_no_change_and_rare_ones_raise_no_warning():
    matrices = random_matrices(3)
    matrices[:, 4], matrices[:, :, 4] = 0, 0
    matrices[1:, 5], matrices[1:, :, 5] = 0, 0  # one photo of twelve
    document = report_of(matrices, matrices).document()
    change = document["models"][1]["iou_change"]
    assert change["tree"] is None
    assert (change["pole"]["difference"], change["pole"]["low"]) == (0.0, None)
    assert (change["pole"]["unit"], change["pole"]["units"]) == ("images", 1)
    assert document["models"][1]["iou"]["tree"] is None
    json.dumps(document, allow_nan=False)


def test_a_class_of_one_photo_is_in_no_colour():
    """It was +18.72 [+18.72, +18.72] in green."""
    first = random_matrices(3)
    first[1:, 5], first[1:, :, 5] = 0, 0
    second = first.copy()
    second[0, 5, 5] += 60
    second[0, 5, CLASSES] -= np.minimum(second[0, 5, CLASSES], 60)
    report = report_of(first, second)
    document = report.document()
    change = document["models"][1]["iou_change"]["pole"]
    assert change["difference"] > 0.01
    assert formats.verdict(change) == "unsure"
    assert formats.interval(change) == f"{formats.points(change['difference'])} (too few: 1)"
    assert "pole" not in summary.findings(document)[0]
    text = page.render(document, pictures.Album(), report=report)
    row = re.search(r'<tr data-class="pole">.*?</tr>', text, re.DOTALL).group()
    assert 'class="change unsure"' in row
    assert "(too few: 1)" in row


def test_a_reference_that_is_the_worst_file_is_said(tmp_path):
    worst, better, best = (random_matrices(4, photos=20) for _ in range(3))
    better[:, 0, 0] += 100
    best[:, 0, 0] += 200
    said = "file0, which the others are compared with, has the lowest mIoU of all"
    for stacks, reference in (((worst, better, best), 0), ((worst, worst, best), 0)):
        report = report_of(*stacks, reference=reference)
        document = report.document()
        found = [note for note in document["notes"] if note.startswith(said)]
        assert bool(found) == (stacks[1] is better)
        for text in (
            page.render(document, pictures.Album(), report=report),
            model_card(document),
            terminal_table(
                [file.result for file in report.files],
                report.dataset,
                options=report.options,
                reference=reference,
            ),
        ):
            assert (said in text) == bool(found)
    assert report_of(better, worst, reference=0).document()["notes"] == []
    results = [file.result for file in report_of(worst, better, reference=None).files]
    write_metrics(
        results,
        open_dataset("synthetic", None, split="val"),
        options=EvaluationOptions(),
        output_dir=tmp_path,
    )
    assert json.loads((tmp_path / "metrics.json").read_text())["notes"] == []


def test_means_over_other_classes_are_marked_in_page_card_and_table():
    report = report_of(*of_other_classes())
    document = report.document()
    note = document["notes"][0]
    names = list(document["models"][0]["iou"])
    assert note.startswith(
        f"mIoU is not over the same classes: file0 over 4 classes; file1 over 6 classes (also "
        f"{names[4]}, {names[5]}). Over the 4 that all count, %: file0 "
    )
    table = terminal_table(
        [file.result for file in report.files], report.dataset, options=report.options
    )
    for text in (
        page.render(document, pictures.Album(), report=report),
        model_card(document),
        table,
    ):
        assert note in text


def test_six_photos_give_no_verdict():
    first = random_matrices(4, photos=6)
    second = first.copy()
    second[:, 6, 6] -= 200
    second[:, 6, 0] += 200
    report = report_of(first, second)
    document = report.document()
    model = document["models"][1]
    assert formats.verdict(model["miou_change"]) == "unsure"
    assert charts.interval_ends(model) == []
    assert summary.worst_change(model) is None
    assert "too few independent images (6) to tell it from chance" in summary.findings(document)[0]
    assert 'class="change better"' not in page.render(document, pictures.Album(), report=report)
    assert "(too few: 6)" in model_card(document)


def test_the_page_names_what_was_resampled(monkeypatch):
    first, second = random_matrices(1, photos=40), random_matrices(2, photos=40)
    report = report_of(first, second)
    assert "40 images" in page.render(report.document(), pictures.Album(), report=report)
    monkeypatch.setattr(type(report.dataset), "group", lambda self, index: f"drive {index // 20}")
    report = dataclasses.replace(report, options=EvaluationOptions(block_length=4))
    text = page.render(report.document(), pictures.Album(), report=report)
    assert "10 blocks of 4 images" in text
    assert "of the given length" in text


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
    name, worst = summary.worst_change(document["models"][1])
    assert (name, worst["high"] < 0) == ("vehicle", True)
    (sentence,) = summary.findings(document)
    assert sentence.startswith("file1: −")  # noqa: RUF001
    assert "hurt most: vehicle" in sentence


def of_other_classes():
    """Two files on a list of classes 0 to 3; the second also predicts 4 and 5, which are not there.

    Both get 90 % of each class's pixels: the first mistakes the others for class 0, the second
    for the classes that are not there.
    """
    first = np.zeros((12, CLASSES, CLASSES + 1), np.uint32)
    first[:, range(4), range(4)] = 900
    second = first.copy()
    first[:, 1:4, 0] = 100
    first[:, 0, 1] = 100
    second[:, 0:2, 4], second[:, 2:4, 5] = 100, 100
    return first, second


def test_change_is_over_the_classes_that_both_files_count():
    document = report_of(*of_other_classes()).document()
    base, model = document["models"]
    assert (base["classes_counted"], model["classes_counted"]) == (4, 6)
    names = list(base["iou"])[:4]
    assert model["changed_over"] == names
    # Nobody's pixels go to a wrong class that is there: IoU 0.9 each. mIoU itself is 0.6.
    expected = np.mean([model["iou"][name] - base["iou"][name] for name in names])
    assert [model["iou"][name] for name in names] == pytest.approx([0.9] * 4)
    assert model["miou_change"]["difference"] == pytest.approx(expected)
    assert model["miou_change"]["low"] > 0 > model["miou"] - base["miou"]
    assert summary.findings(document)[0].startswith(
        f"file1: {formats.points(expected)} points of mIoU over the 4 classes that both files "
        "count,"
    )


def test_change_without_a_class_in_common_is_not_told():
    first, second = (np.zeros((3, CLASSES, CLASSES + 1), np.uint32) for _ in range(2))
    first[:, 0, 0], second[:, 1, 1] = 10, 10
    model = report_of(first, second).document()["models"][1]
    assert (model["miou_change"], model["changed_over"]) == (None, [])


def test_page_and_card_count_the_classes_of_each_file():
    report = report_of(*of_other_classes())
    document = report.document()
    text = page.render(document, pictures.Album(), report=report)
    assert re.findall(r'data-key="classes_counted">(\d+)<', text) == ["4", "6"]
    names = ", ".join(document["models"][1]["changed_over"])
    sentence = f"file1: change over the 4 classes that file0 counts too: {names}."
    assert sentence in text
    assert "non-empty union, at the label" in text
    card = model_card(document)
    assert sentence in card
    rows = [line.split(" | ") for line in card.splitlines() if re.match(r"\| file\d \|", line)]
    assert [row[2] for row in rows[:2]] == ["4", "6"]


def test_interval_in_the_plot_lies_around_the_files_own_point():
    document = report_of(*of_other_classes()).document()
    low, high = charts.interval_ends(document["models"][1])
    assert low <= 60.0 <= high  # 4 classes of 0.9 and 2 of 0


def test_without_a_reference_nothing_is_compared():
    document = report_of(random_matrices(5), random_matrices(6), reference=None).document()
    assert document["reference"] is None
    assert "miou_change" not in document["models"][1]
    assert summary.findings(document) == []
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
    assert pictures.differences(truth, mask, reference=reference, num_classes=3).tolist() == [
        [same, lost, won, other, same, ignored]
    ]
    assert pictures.differences(truth, mask, reference=None, num_classes=3).tolist() == [
        [same, lost, same, lost, lost, ignored]
    ]


def test_wide_axes_are_logarithmic_and_labelled_in_plain_numbers():
    report = report_of(random_matrices(12), random_matrices(13))
    for file, milliseconds in zip(report.files, (8.0, 1200.0), strict=True):
        file.result.latency = LatencyMs(
            milliseconds, milliseconds, p90=milliseconds, num_threads=1, warmup=1, repeats=5
        )
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

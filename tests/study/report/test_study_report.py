"""What a study's page says, from cells whose files and matrices are planted."""

import csv
import dataclasses
import io
import json
import re
import shutil

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.bootstrap import miou_difference, simultaneous_differences
from deeplab_tf.metrics.resampling import Dependence
from deeplab_tf.runs.events import read_training_minutes
from study.report import timing
from study.report.charts import front
from study.report.collect import StudyScope, collect_study
from study.report.curves import count_parameters, read_losses, read_validations
from study.report.matrices import read_matrices, write_matrices
from study.report.page import render, study_csv, study_table
from study.report.timing import TimingOptions, time_files
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult
from tflite_tools.evaluation.tables import write_metrics
from tflite_tools.json_values import finite
from tflite_tools.runtime.latency import LatencyMs

CLASSES, PHOTOS = 7, 12
NO_TIMING = TimingOptions(repeats=0)
ODD_FAILURE = "<b>loss & nan</b>"


def matrices(seed, hits):
    rng = np.random.default_rng(seed)
    stack = rng.integers(0, 40, (PHOTOS, CLASSES, CLASSES + 1)).astype(np.uint32)
    stack[:, range(CLASSES), range(CLASSES)] += hits
    return stack


def plant_cell(folder, stacks):
    """A cell that is done: two copies of one file under two variants, with their matrices."""
    dataset, options = open_dataset("synthetic", None, split="val"), EvaluationOptions()
    tflite = folder / "run" / "tflite"
    tflite.mkdir(parents=True)
    results = []
    for variant, stack in stacks.items():
        path = shutil.copy(CAMVID / "int8.tflite", tflite / f"{variant}.tflite")
        contract = dataclasses.replace(read_contract(path), variant=variant)
        result = ModelResult(contract, len(stack), matrix=stack.sum(0, dtype=np.int64))
        result.image_matrices = stack
        result.mean_loss = float(stack[0, 0, 0]) / 7
        results.append(result)
    write_matrices(results, folder / "evaluation")
    write_metrics(results, dataset, options=options, output_dir=folder / "evaluation")
    stages = {"train": {"seconds": 61.5, "threads": 2}}
    record = {"name": folder.name, "state": "done", "failure": "", "stages": stages}
    (folder / "cell.json").write_text(json.dumps(record))


@pytest.fixture
def scope(tmp_path):
    """Three cells: one done, one better, one that failed."""
    plant_cell(
        tmp_path / "cells" / "net-a", {"float32": matrices(1, 300), "int8": matrices(2, 250)}
    )
    plant_cell(tmp_path / "cells" / "net-b", {"float32": matrices(3, 500)})
    failed = tmp_path / "cells" / "net-c"
    failed.mkdir()
    (failed / "cell.json").write_text(
        json.dumps({"state": "failed", "failure": ODD_FAILURE, "stages": {}})
    )
    values = {"a": {"seed": 1}, "b": {}, "c": {"flip": False}}
    return StudyScope(
        name="planted",
        folder=tmp_path,
        axes={"net": values},
        train={"dataset": "synthetic"},
        cells={f"net-{value}": {"net": value} for value in values},
        variants=("float32", "int8"),
        dataset=open_dataset("synthetic", None, split="val"),
        options=EvaluationOptions(),
        command="typed",
    )


def test_scores_and_their_intervals_are_those_of_the_matrices(scope):
    document = collect_study(scope, NO_TIMING).document()
    first, best, _ = document["cells"]
    for cell, seed, hits in ((first, 1, 300), (best, 3, 500)):
        file = cell["files"]["float32"]
        score, _ = confusion.mean_iou(matrices(seed, hits).sum(0).astype(np.int64))
        assert file["miou"] == pytest.approx(score)
        assert file["miou_low"] < score < file["miou_high"]
    # An interval of the score itself, resampled here by hand.
    rng = np.random.default_rng(5)
    drawn = rng.integers(0, PHOTOS, (2000, PHOTOS))
    stack = matrices(1, 300).astype(np.int64)
    resampled = [confusion.mean_iou(stack[photos].sum(0))[0] for photos in drawn]
    tail = 100 * stats.norm.cdf(-np.sqrt(PHOTOS / (PHOTOS - 1)) * stats.t.ppf(0.975, PHOTOS - 1))
    low, high = np.percentile(resampled, [tail, 100 - tail])
    # Two draws of 2000 differ in their percentiles by far less than a tenth of the interval.
    slack = 0.1 * (high - low)
    assert first["files"]["float32"]["miou_low"] == pytest.approx(low, abs=slack)
    assert first["files"]["float32"]["miou_high"] == pytest.approx(high, abs=slack)


def test_changes_are_paired_within_a_cell_and_against_the_best(scope):
    document = collect_study(scope, NO_TIMING).document()
    assert (document["best"], document["worst"]) == ("net-b", "net-a")
    files = document["cells"][0]["files"]
    alone = Dependence(tuple(f"photo {number}" for number in range(PHOTOS)))
    within = miou_difference(matrices(1, 300), matrices(2, 250), dependence=alone)
    assert files["int8"]["miou_change"] == pytest.approx(within.to_json())
    assert files["float32"]["miou_change"] is None
    (between,) = simultaneous_differences(matrices(3, 500), [matrices(1, 300)], dependence=alone)
    assert files["float32"]["from_best"] == pytest.approx(between.to_json())
    assert document["cells"][1]["files"]["float32"]["from_best"] is None


def test_a_stray_pixel_does_not_cost_a_cell_its_place(scope):
    """net-d beats net-e on every class of the list, and has one pixel of a class that is not there:
    its own mean is over seven classes, a seventh of it lost."""
    folder = scope.folder / "cells"
    better, worse = (np.zeros((PHOTOS, CLASSES, CLASSES + 1), np.uint32) for _ in range(2))
    for stack, hits in ((better, 800), (worse, 790)):
        stack[:, range(6), range(6)] = hits
        stack[:, range(6), CLASSES] = 1000 - hits
    better[0, 0, CLASSES] -= 1
    better[0, 0, 6] += 1
    plant_cell(folder / "net-d", {"float32": better})
    plant_cell(folder / "net-e", {"float32": worse})
    cells = {"net-d": {"net": "d"}, "net-e": {"net": "e"}}
    document = collect_study(dataclasses.replace(scope, cells=cells), NO_TIMING).document()
    miou = [cell["files"]["float32"]["miou"] for cell in document["cells"]]
    assert miou[0] < miou[1] - 0.1
    assert (document["best"], document["worst"]) == ("net-d", "net-e")
    # 10 pixels of 1000 in each class of both; the stray one was wrong before, too.
    change = document["cells"][1]["files"]["float32"]["from_best"]
    assert change["difference"] == pytest.approx(-0.01, abs=1e-9)


def test_mean_over_counts_in_scores_and_intervals(scope):
    options = EvaluationOptions(mean_over=("road", "sky"))
    document = collect_study(dataclasses.replace(scope, options=options), NO_TIMING).document()
    iou = confusion.iou_per_class(matrices(1, 300).sum(0).astype(np.int64))
    file = document["cells"][0]["files"]["float32"]
    assert file["miou"] == pytest.approx((iou[0] + iou[2]) / 2)
    assert file["miou_low"] < file["miou"] < file["miou_high"]


def test_page_escapes_asks_no_host_and_names_what_failed(scope):
    document = finite(collect_study(scope, NO_TIMING).document())
    page = render(document, [])
    assert "&lt;b&gt;loss &amp; nan&lt;/b&gt;" in page
    assert ODD_FAILURE not in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)
    row = re.search(r'<tr data-cell="net-a".*?</tr>', page, re.DOTALL).group()
    miou = document["cells"][0]["files"]["float32"]["miou"]
    assert f">{100 * miou:.2f}<" in row
    assert ">62<" in row or ">61<" in row  # seconds of training
    assert '<td class="left">c</td>' in page
    accuracies = re.search(r'<table id="accuracies">.*?</table>', page, re.DOTALL).group()
    file = document["cells"][0]["files"]["int8"]
    matrix = matrices(2, 250).sum(0).astype(np.int64)
    expected = (
        f'<td class="group">{file["mean_loss"]:.4f}</td>'
        f"<td>{100 * confusion.pixel_accuracy(matrix):.2f}</td>"
        f"<td>{100 * confusion.mean_class_accuracy(matrix):.2f}</td>"
    )
    assert expected in accuracies
    table = study_table(document)
    assert f"net-c: {ODD_FAILURE}" in table


def test_page_of_a_study_that_never_ran(scope, tmp_path):
    empty = dataclasses.replace(scope, folder=tmp_path / "nothing")
    document = collect_study(empty, NO_TIMING).document()
    assert {cell["state"] for cell in document["cells"]} == {"waiting"}
    page = render(finite(document), [])
    assert "Not finished: net-a, net-b, net-c." in page
    assert "<svg" not in page


def test_csv_has_a_line_a_file_and_the_document_s_numbers(scope):
    document = finite(collect_study(scope, NO_TIMING).document())
    rows = list(csv.DictReader(io.StringIO(study_csv(document))))
    assert [(row["cell"], row["variant"]) for row in rows] == [
        ("net-a", "float32"),
        ("net-a", "int8"),
        ("net-b", "float32"),
        ("net-c", ""),
    ]
    file = document["cells"][0]["files"]["int8"]
    assert float(rows[1]["miou_change_low"]) == file["miou_change"]["low"]
    assert float(rows[1]["iou vehicle"]) == file["iou"]["vehicle"]
    assert float(rows[1]["mean_loss"]) == file["mean_loss"] == matrices(2, 250)[0, 0, 0] / 7
    assert rows[0]["train_seconds"] == "61.5"
    assert rows[3]["failure"] == ODD_FAILURE


def test_damaged_scores_cost_one_cell_its_row(scope):
    (scope.folder / "cells" / "net-b" / "evaluation" / "matrices.npz").write_bytes(b"PK")
    document = collect_study(scope, NO_TIMING).document()
    assert document["best"] == "net-a"
    assert "delete the folder to score again" in document["cells"][1]["failure"]


def test_matrices_come_back(tmp_path):
    contract = read_contract(CAMVID / "int8.tflite")
    result = ModelResult(contract, image_matrices=matrices(0, 9))
    write_matrices([result, ModelResult(contract, failure="broken")], tmp_path)
    found = read_matrices(tmp_path)
    assert list(found) == ["int8.tflite"]
    np.testing.assert_array_equal(found["int8.tflite"], matrices(0, 9))
    with pytest.raises(ValueError, match="no matrices"):
        read_matrices(tmp_path / "elsewhere")


def test_times_are_measured_again_as_soon_as_one_file_is_new(tmp_path, monkeypatch):
    measured = []

    def measure(contracts, image, **how):
        measured.append(len(contracts))
        return [LatencyMs(1.0, 2.0, p90=3.0, num_threads=1, warmup=3, repeats=5), None][
            : len(contracts)
        ]

    monkeypatch.setattr(timing, "measure_latency", measure)
    contracts = [read_contract(CAMVID / f"{name}.tflite") for name in ("int8", "qat_int8")]
    image = np.zeros((8, 8, 3), np.uint8)
    kept = tmp_path / "latency.json"
    options = TimingOptions(5)
    first = time_files(contracts, image, options=options, kept=kept)
    assert (
        time_files(contracts, image, options=options, kept=kept)
        == first
        == [LatencyMs(1, 2, p90=3, num_threads=1, warmup=3, repeats=5), None]
    )
    assert measured == [2]
    time_files(contracts[:1], image, options=options, kept=kept)
    time_files(contracts[:1], image, options=TimingOptions(6), kept=kept)
    kept.write_text("{")
    time_files(contracts[:1], image, options=TimingOptions(6), kept=kept)
    assert measured == [2, 1, 1, 1]
    with pytest.raises(
        ValueError, match="latency_repeats and --latency_warmup must not be negative"
    ):
        TimingOptions(-1)


def test_front_holds_what_nothing_else_beats():
    # (cost, score): 1 is cheapest, 3 is better for more, 0 costs more than 3 and scores less,
    # 2 costs as much as 3 and scores less, 4 is dearest and best.
    points = [(3.0, 50.0), (1.0, 40.0), (2.0, 45.0), (2.0, 60.0), (5.0, 61.0)]
    assert front(points) == [1, 3, 4]


def test_losses_of_a_run_that_went_on_count_once(tmp_path):
    for offset, steps in ((0.0, (50, 100)), (1.0, (100, 150))):  # stopped after 100, again from 50
        writer = tf.summary.create_file_writer(
            str(tmp_path / "events" / "float"), filename_suffix=f".{offset}"
        )
        with writer.as_default():
            for step in steps:
                tf.summary.scalar("loss", 9.0, step)
                tf.summary.scalar("loss_cross_entropy", offset + step / 100, step)
                tf.summary.scalar("learning_rate", 0.1, step)
        writer.close()
    losses = read_losses(tmp_path)
    assert losses == {"float": [(50, 0.5), (100, 2.0), (150, 2.5)]}
    assert read_losses(tmp_path / "none") == {}


def test_minutes_of_a_run_leave_out_its_pause_and_what_it_repeats(tmp_path):
    events = tmp_path / "events" / "quantized"
    for start, steps in ((1000, (50, 100, 150)), (9000, (150, 200))):  # stopped, again from 100
        writer = EventFileWriter(str(events), filename_suffix=f".{start}")
        for index, step in enumerate(steps):
            tensor = TensorProto.FromString(tf.make_tensor_proto(1.0).SerializeToString())
            value = Summary.Value(tag="loss", tensor=tensor)
            event = Event(wall_time=start + 30 * index, step=step, summary=Summary(value=[value]))
            writer.add_event(event)
        writer.close()
    # 200 steps of 30 s / 50.
    assert read_training_minutes(tmp_path, "quantized") == pytest.approx(2.0)
    assert read_training_minutes(tmp_path, "float") is None


def test_validations_skip_parity_and_a_line_that_was_cut(tmp_path):
    lines = [
        {"phase": "float", "step": 20, "miou": 0.25},
        {"phase": "quantized", "step": 40, "parity": {"snr_db": 30.0}},
        {"phase": "quantized", "step": 40, "miou": 0.5},
        {"phase": "quantized", "step": 60, "miou": float("nan")},
    ]
    text = "\n".join(map(json.dumps, lines)) + '\n{"phase": "quan'
    (tmp_path / "history.jsonl").write_text(text)
    assert read_validations(tmp_path) == {"float": [(20, 0.25)], "quantized": [(40, 0.5)]}


def test_parameters_are_what_training_moves(tmp_path):
    arrays = {
        "conv/kernel": np.zeros((3, 3, 2, 4)),
        "bn/gamma": np.zeros(4),
        "bn/moving_mean": np.zeros(4),
        "bn/moving_variance": np.zeros(4),
    }
    np.savez(tmp_path / "float.npz", **arrays)
    assert count_parameters(tmp_path) == 3 * 3 * 2 * 4 + 4
    assert count_parameters(tmp_path / "none") is None

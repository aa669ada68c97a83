"""The comparison of quantization methods, on a few drawn scenes with trained weights."""

import dataclasses
import json

import numpy as np
import pytest

from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.resampling import Dependence
from export.conversion.variants import Variant
from export.experiments.comparison import (
    REFERENCE,
    Comparison,
    ComparisonResult,
    ComparisonRow,
    Method,
)
from export.experiments.comparison_report import (
    comparison_table,
    selection_text,
    write_comparison,
)
from tests.children import run_command
from tests.paths import CAMVID
from tests.small_network import small_keras_model
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.differences import difference_from
from tflite_tools.evaluation.evaluation import EvaluationOptions, ModelResult


def compare(*flags):
    return run_command("export.compare_quantization", *flags, timeout=900)


@pytest.mark.slow
def test_one_method_is_chosen_on_a_drive_held_out_and_reported_alone(tmp_path, shared_dir):
    flags = (
        f"--run_dir={CAMVID}",
        f"--data_dir={shared_dir / 'data' / 'camvid'}",
        f"--output_dir={tmp_path / 'out'}",
        "--methods=per_tensor,corrected",
        "--select_on=holdout",
        "--holdout_groups=0001TP",
        "--limit=12",
        "--block_length=1",
        "--latency_repeats=2",
    )
    done = compare(*flags, "--calibration_images=4")
    assert done.returncode == 0, done.stderr[-3000:]
    written = json.loads((tmp_path / "out" / "ladder.json").read_text())
    assert written["selection"]["images"] == 62
    rows = {row["name"]: row for row in written["selection"]["rungs"]}
    assert list(rows) == ["float32", "per_tensor", "corrected"]
    # One scale a kernel destroys this network; measured -0.59 on the whole list.
    assert rows["per_tensor"]["difference"]["high"] < -0.2
    # Measured: -0.0012 [-0.0026, +0.0004]; half a point lost would be a fault.
    assert rows["corrected"]["difference"]["low"] > -0.005
    assert rows["corrected"]["snr_db"] > rows["per_tensor"]["snr_db"] + 5
    assert written["best"] == "corrected"
    reported = {row["name"]: row for row in written["rungs"]}
    assert list(reported) == ["float32", "corrected"]
    assert {row["images"] for row in reported.values()} == {12}
    assert reported["corrected"]["difference"]["unit"] == "images"
    assert "chosen of 2 on camvid, split holdout, 62 images; on val: corrected" in done.stdout
    assert (tmp_path / "out" / "ladder.png").stat().st_size > 5000
    assert len((tmp_path / "out" / "ladder.csv").read_text().splitlines()) == 3
    manifest = json.loads((tmp_path / "out" / "corrected" / "int8.json").read_text())
    assert manifest["quantization"]["bias"] == "empirical"
    assert manifest["calibration"]["split"] == "train-minus-0001TP"
    other = compare(*flags, "--calibration_images=5")
    assert other.returncode == 1
    assert "already holds" in other.stderr
    again = compare(*flags, "--calibration_images=4", "--methods=per_tensor")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("made before") == 2
    assert "chosen of 1" in again.stdout


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--methods=magic",), "--methods: unknown magic; known: float32, per_tensor"),
        (("--rungs=magic",), "--methods: unknown magic"),  # the flag's earlier name
        (("--runs=only_a_name",), "--runs: expected name=RUN_DIR"),
        (("--split=train",), "--calibration_split and --split are both train"),
        (("--holdout_images=3",), "--holdout_images and --holdout_groups need --select_on=holdout"),
    ],
)
def test_bad_input(tmp_path, flags, message):
    done = compare(
        f"--run_dir={CAMVID}", "--dataset=synthetic", f"--output_dir={tmp_path / 'o'}", *flags
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "o").exists()


def test_the_names_of_the_methods():
    done = run_command("export.compare_quantization", "--methods=help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[:2] == ["float32", "per_tensor"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected one of --run_dir, --model, --keras_file, --saved_model, got none"),
        (("--run_dir=a", "--model=b"), "--saved_model, got run_dir, model"),
        (("--model=b",), "--model needs --dataset"),
        (("--run_dir=a", "--mean=0", "--std=255"), "--mean and --std are for files"),
    ],
)
@pytest.mark.parametrize("command", ["compare_quantization", "sensitivity", "check_calibration"])
def test_one_network_is_named(command, flags, message):
    done = run_command(f"export.{command}", *flags)
    assert done.returncode == 1
    assert message in done.stderr


def test_a_keras_file_is_compared_like_a_run(tmp_path):
    path = tmp_path / "m.keras"
    small_keras_model().save(path)
    done = run_command(
        "export.compare_quantization",
        f"--keras_file={path}",
        "--mean=128",
        "--std=128",
        "--dataset=synthetic",
        "--methods=per_channel",
        "--calibration_images=2",
        "--limit=2",
        "--latency_repeats=0",
        f"--output_dir={tmp_path / 'out'}",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [
        row["name"] for row in json.loads((tmp_path / "out" / "ladder.json").read_text())["rungs"]
    ] == ["float32", "per_channel"]


ALONE = Dependence(tuple(f"photo {number}" for number in range(10)))


def planted_comparison(selection=None):
    return Comparison(
        None,
        [Method(REFERENCE, Variant.FLOAT32)],
        plan=None,
        evaluation=open_dataset("synthetic", None, split="val"),
        options=EvaluationOptions(),
        selection=selection,
    )


def planted_rows():
    """Float, and a file that moves one pixel of 60,000 to the class that no photo holds."""
    first = np.zeros((10, 7, 8), np.uint32)
    first[:, range(6), range(6)] = 1000
    second = first.copy()
    second[0, 0, 0] -= 1
    second[0, 0, 6] += 1
    results = []
    for stack in (first, second):
        result = ModelResult(read_contract(CAMVID / "int8.tflite"), images=len(stack))
        result.matrix, result.image_matrices = stack.sum(0, dtype=np.int64), stack
        results.append(result)
    difference, both = difference_from(results[0], results[1], classes=(), dependence=ALONE)
    return [
        ComparisonRow(REFERENCE, results[0], difference=None, snr_db=None, minutes=0.0, failure=""),
        ComparisonRow(
            "int8",
            results[1],
            difference=difference,
            snr_db=20.0,
            minutes=0.0,
            failure="",
            changed_over=both,
        ),
    ]


def test_difference_is_over_the_classes_that_both_count_and_the_table_says_so(tmp_path):
    rows = planted_rows()
    # A pixel of 10,000 of class 0, over six classes; -14 points between the means themselves.
    assert rows[1].difference.difference == pytest.approx(-1 / 10_000 / 6, rel=1e-9)
    dataset, options = open_dataset("synthetic", None, split="val"), EvaluationOptions()
    table = comparison_table(rows, dataset, options=options)
    line = next(line for line in table.splitlines() if line.startswith("int8 "))
    assert line.split()[:3] == ["int8", "85.71", "-0.00~"]
    assert (
        "int8: mIoU over 7 classes, float32's over 6; the difference over the 6 that both count"
        in table
    )
    write_comparison(
        ComparisonResult(rows, "int8", rows[1].difference),
        planted_comparison(),
        output_dir=tmp_path,
    )
    written = json.loads((tmp_path / "ladder.json").read_text())
    assert written["best"] == "int8"
    assert written["best_difference"]["unit"] == "images"
    document = written["rungs"][1]
    assert document["changed_over"] == list(dataset.label_set.names)[:6]
    same = [
        rows[0],
        ComparisonRow(
            "same",
            rows[0].result,
            difference=rows[1].difference,
            snr_db=20.0,
            minutes=0.0,
            failure="",
            changed_over=(*range(6),),
        ),
    ]
    assert "that both count" not in comparison_table(same, dataset, options=options)


def test_a_failed_file_has_no_difference():
    (base, _) = planted_rows()
    nothing = difference_from(base.result, None, classes=(), dependence=ALONE)
    assert nothing == (None, ())


def test_a_maximum_says_of_how_many():
    rows = planted_rows()
    joint = dataclasses.replace(rows[1].difference, compared=13)
    text = selection_text(ComparisonResult(rows, "int8", joint), planted_comparison())
    assert text.startswith("highest of 13 on this very list: int8 -0.00 from float; 95 % interval")
    assert "10 images, widened for the choice" in text
    held = open_dataset("synthetic", None, split="train")
    chosen = ComparisonResult(rows, "int8", rows[1].difference, selection=rows)
    text = selection_text(chosen, planted_comparison(held))
    assert text.startswith(
        "chosen of 1 on synthetic, split train, 400 images; on val: int8 -0.00 from float, 95 %"
    )

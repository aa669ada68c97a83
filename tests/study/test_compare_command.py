"""`python -m study.compare` as a user types it: bad input, and a tiny grid for real."""

import json
import re
import signal
import time

import pytest

from tests.children import Command, run_command
from tests.small_network import write_small_run

TINY = {
    "name": "tiny",
    "train": {
        "dataset": "synthetic",
        "batch_size": 2,
        "train_steps": 2,
        "summary_interval": 1,
        "holdout_images": 2,
        "validation_split": "holdout",
    },
    "grid": {"flip": {"on": {}, "off": {"flip": False}}},
    "variants": ["float32", "int8"],
    "export": {"calibration_images": 2},
    "evaluate": {"limit": 3},
}


def command(study, output_dir, *flags):
    paths = (f"--study={study}", f"--output_dir={output_dir}")
    return ("study.compare", *paths, "--latency_repeats=2", *flags)


def run(*arguments):
    done = run_command(*command(*arguments), timeout=500)
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    return done.returncode, done.stdout, errors


def write_study(folder, **changes):
    path = folder / "study.json"
    path.write_text(json.dumps({**TINY, **changes}))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": [64, 64]}, r"unknown key crop; known: name, train, grid"),
        ({"variants": ["float32", "int4"]}, r"unknown 'int4'; known: float32"),
        ({"evaluate": {"mean_over": ["lake"]}}, r"synthetic has no class lake; it has sky"),
        ({"evaluate": {"mean_over": 5}}, r"synthetic has no class 5; it has sky"),
    ],
)
def test_bad_input_ends_in_one_line_and_leaves_no_folder(tmp_path, changes, message):
    status, _, errors = run(write_study(tmp_path, **changes), tmp_path / "out", "--report_only")
    assert status == 1
    assert len(errors) == 1
    assert re.search(message, errors[0])
    assert not (tmp_path / "out").exists()


def test_a_teacher_that_is_not_there_is_said_before_the_work(tmp_path):
    study = write_study(tmp_path, train={**TINY["train"], "teacher": str(tmp_path / "none")})
    status, _, errors = run(study, tmp_path / "out")
    assert status == 1
    assert re.search(r"no run to learn from for .*: .*none; train that run first", errors[0])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_study_that_was_stopped_goes_on_and_ends_in_a_page(tmp_path):
    small = write_small_run(tmp_path / "small")
    study = write_study(tmp_path, train={**TINY["train"], "init_from": str(small)})
    output_dir = tmp_path / "out"
    cells = [output_dir / "cells" / name / "cell.json" for name in ("flip-on", "flip-off")]
    process = Command(*command(study, output_dir))
    deadline = time.monotonic() + 300
    while not cells[1].is_file():  # the second cell has begun, so the first has ended
        assert process.poll() is None, process.errors()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "error: interrupted" in said
    first = cells[0].read_text()
    assert json.loads(first)["state"] == "done"
    assert json.loads(cells[1].read_text())["state"] == "stopped"

    status, table, errors = run(study, output_dir)
    assert (status, errors) == (0, []), [p.read_text()[-2000:] for p in output_dir.rglob("*.log")]
    assert cells[0].read_text() == first  # nothing of it was run again
    assert json.loads(cells[1].read_text())["state"] == "done"
    document = json.loads((output_dir / "study_results.json").read_text())
    for cell in document["cells"]:
        assert 400 < cell["parameters"] < 500
        assert cell["train_loss"] > 0
        assert [step for step, _ in cell["losses"]["float"]] == [1, 2]
        float_file, int8_file = cell["files"]["float32"], cell["files"]["int8"]
        assert float_file["images"] == 3
        assert 0 < int8_file["size_bytes"] < float_file["size_bytes"]
        assert int8_file["latency_ms"]["repeats"] == 2
        metrics = json.loads(
            (output_dir / "cells" / cell["name"] / "evaluation" / "metrics.json").read_text()
        )
        scored = {model["variant"]: model["miou"] for model in metrics["models"]}
        assert scored == {v: pytest.approx(f["miou"]) for v, f in cell["files"].items()}
    assert "flip-off" in table
    page = (output_dir / "index.html").read_text()
    assert page.count('<img class=mask src="data:image/png') >= 3
    assert page.count("<svg") == 3

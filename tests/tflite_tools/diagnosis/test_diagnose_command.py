"""The command: what it prints, writes and ends with."""

import json

import pytest

from tests.children import run_command
from tests.paths import CAMVID

INT8 = CAMVID / "int8.tflite"


def command(*flags):
    done = run_command("tflite_tools.diagnose", *flags, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_without_photos_it_says_what_was_not_looked_at(tmp_path):
    status, output, errors = command(f"--model={INT8}", f"--json={tmp_path}/d.json")
    assert status == 0, errors
    assert "skipped pixel values" in output
    assert "needs photos: give --dataset and --data_dir" in output
    assert output.splitlines()[-1].startswith("0 problem(s), 0 warning(s); 8 checks ran, 12 skip")
    document = json.loads((tmp_path / "d.json").read_text())
    assert (document["findings"], document["checks_ran"]) == ([], 8)
    assert len(document["skipped"]) == 12


def test_problem_ends_with_status_one_and_its_cure(tmp_path):
    flags = (f"--model={INT8}", "--mean=0,0,0", "--std=1,1,1", f"--json={tmp_path}/d.json")
    status, output, _ = command(*flags)
    assert status == 1
    lines = output.splitlines()
    assert lines[0].startswith("PROBLEM raw_pixels: pixels 0..255 become [0, 255]")
    assert lines[1].startswith("    cure: Normalize photos")
    (finding,) = json.loads((tmp_path / "d.json").read_text())["findings"]
    assert (finding["name"], finding["severity"]) == ("raw_pixels", "problem")


def test_photos_through_the_command(shared_dir):
    flags = ("--dataset=camvid", f"--data_dir={shared_dir / 'data' / 'camvid'}")
    status, output, errors = command(f"--model={INT8}", *flags, "--limit=4", "--sample=2")
    assert status == 0, output + errors
    assert "masks of 4 photos" in output


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "--model"),
        (("--model=missing.tflite",), 1, "missing.tflite: no such file"),
        ((f"--model={INT8}", "--mean=x", "--std=1"), 1, "--mean and --std: could not convert"),
        (
            (f"--model={INT8}", "--mean=128,128", "--std=128,128"),
            1,
            "expected a normalization of 3 channel",
        ),
        ((f"--model={INT8}", "--labels=no.txt"), 1, "no.txt: no such file"),
        (
            (f"--model={INT8}", f"--labels={CAMVID / 'config.json'}"),
            1,
            "expected class names, got none",
        ),
        ((f"--model={INT8}", f"--reference={INT8}"), 1, "computes with integers"),
        ((f"--model={INT8}", "--dataset=camvid"), 1, "needs --data_dir"),
        ((f"--model={INT8}", "--sample=0"), 1, "sample photos and processes at least 1"),
    ],
)
def test_bad_flags_end_with_one_line(flags, status, message):
    code, _, errors = command(*flags)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == status
    assert len(lines) == 1, errors
    assert message in lines[0]
    assert "Traceback" not in errors

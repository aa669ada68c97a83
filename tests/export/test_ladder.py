"""The comparison of quantization methods, on a few drawn scenes with trained weights."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests.zoo import CAMVID

ROOT = pathlib.Path(__file__).resolve().parents[2]


def compare(*flags):
    return subprocess.run(
        [sys.executable, "-m", "export.compare_quantization", *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


@pytest.mark.slow
def test_ladder_on_real_photos(tmp_path, shared_dir):
    flags = (
        f"--run_dir={CAMVID}",
        f"--data_dir={shared_dir / 'data' / 'camvid'}",
        f"--output_dir={tmp_path / 'out'}",
        "--rungs=per_tensor,corrected",
        "--limit=6",
        "--latency_repeats=2",
    )
    done = compare(*flags, "--calibration_images=4")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = {
        row["name"]: row
        for row in json.loads((tmp_path / "out" / "ladder.json").read_text())["rungs"]
    }
    assert list(rows) == ["float32", "per_tensor", "corrected"]
    # One scale a kernel destroys this network; measured -0.59 on the whole list.
    assert rows["per_tensor"]["difference"]["high"] < -0.2
    assert rows["corrected"]["difference"]["difference"] > -0.05
    assert rows["corrected"]["snr_db"] > rows["per_tensor"]["snr_db"] + 5
    assert "per_tensor" in done.stdout
    assert (tmp_path / "out" / "ladder.png").stat().st_size > 5000
    assert len((tmp_path / "out" / "ladder.csv").read_text().splitlines()) == 4
    manifest = json.loads((tmp_path / "out" / "corrected" / "int8.json").read_text())
    assert manifest["quantization"]["bias"] == "empirical"
    again = compare(*flags, "--calibration_images=4")
    assert again.returncode == 0, again.stderr[-3000:]
    assert again.stderr.count("made before") == 3
    other = compare(*flags, "--calibration_images=5")
    assert other.returncode == 1
    assert "already holds" in other.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--rungs=magic",), "--rungs: unknown magic; known: float32, per_tensor"),
        (("--runs=only_a_name",), "--runs takes name=RUN_DIR"),
        (("--split=train",), "--calibration_split and --split are both train"),
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

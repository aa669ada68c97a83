"""Commands that take a list: a file that cannot be read does not end it."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.file_list import read_contracts

INT8 = CAMVID / "int8.tflite"


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "damaged.tflite"
    path.write_bytes(INT8.read_bytes()[:1000])
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """One labelled photo with CamVid's eleven classes."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for kind, shape in (("images", (60, 80, 3)), ("labels", (60, 80))):
        (folder / kind).mkdir()
        values = random.integers(0, 11, shape, np.uint8)
        Image.fromarray(values).save(folder / kind / "a.png")
    names = json.loads((CAMVID / "labels.json").read_text())["names"]
    (folder / "classes.txt").write_text("\n".join(names))
    (folder / "val.txt").write_text("a")
    return folder


def command(module, *flags):
    done = run_command(f"tflite_tools.{module}", *flags, timeout=300)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_the_others_are_read_and_the_rest_is_named(damaged, tmp_path):
    missing = tmp_path / "missing.tflite"
    contracts, unread = read_contracts([damaged, INT8, missing], ["first", "second", "third"])
    assert [contract.name for contract in contracts] == ["second"]
    assert [file.name for file in unread] == ["first", "third"]
    assert "damaged .tflite" in unread[0].failure
    assert "no such file" in unread[1].failure


def test_a_list_without_a_readable_file_or_without_its_reference_ends(damaged, tmp_path):
    with pytest.raises(ValueError, match="damaged"):
        read_contracts([damaged, tmp_path / "missing.tflite"], ["a", "b"])
    with pytest.raises(ValueError, match="damaged"):
        read_contracts([damaged, INT8], ["a", "b"], needed=damaged)


def test_benchmark_goes_on(damaged, tmp_path):
    status, out, err = command(
        "benchmark",
        f"--model={damaged},{INT8}",
        "--repeats=2",
        "--warmup=1",
        f"--output_dir={tmp_path}",
    )
    assert status == 1
    assert "damaged is skipped" in err
    assert "damaged: NOT READ: " in out
    document = json.loads((tmp_path / "benchmark.json").read_text())
    assert [model["model"] for model in document["models"]] == ["int8"]
    assert document["models"][0]["failure"] == ""
    assert [file["name"] for file in document["unread"]] == ["damaged"]


def test_evaluate_goes_on(damaged, photos, tmp_path):
    status, out, _ = command(
        "evaluate",
        f"--model={damaged},{INT8}",
        "--dataset=folder",
        f"--data_dir={photos}",
        "--latency_repeats=0",
        "--grid_images=0",
        f"--output_dir={tmp_path}",
    )
    assert status == 1
    assert "damaged: NOT READ: " in out
    document = json.loads((tmp_path / "metrics.json").read_text())
    assert [model["model"] for model in document["models"]] == ["int8"]
    assert [file["file"] for file in document["unread"]] == ["damaged.tflite"]
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["model"] for row in rows] == ["int8", "damaged"]
    assert "damaged .tflite" in rows[1]["failure"]


def test_report_goes_on(damaged, photos, tmp_path):
    status, out, _ = command(
        "report",
        f"--model={damaged},{INT8}",
        "--dataset=folder",
        f"--data_dir={photos}",
        "--latency_repeats=0",
        f"--output_dir={tmp_path}",
    )
    assert status == 1
    assert "damaged: NOT READ: " in out
    page = (tmp_path / "index.html").read_text()
    assert "damaged could not be read: " in page
    assert "Kernels: XNNPACK and builtin." in page


def test_check_client_goes_on(damaged):
    status, out, err = command("check_client", f"--model={damaged},{INT8}")
    assert status == 1
    assert "damaged .tflite" in err
    assert f"{INT8}: mediapipe: " in out
    assert out.endswith("1 of 2 files could not be read\n")

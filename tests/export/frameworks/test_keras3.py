"""Keras 3 files and SavedModels, converted for real: TensorFlow brings Keras 3."""

import json
import os
import subprocess
import sys

import pytest

from export.frameworks.request import NORMALIZATIONS
from tests.children import run_command
from tests.export.rewriting.tf_functions import kinds
from tests.paths import ROOT
from tflite_tools.manifest import read_manifest

pytestmark = pytest.mark.slow  # TensorFlow is imported in processes of its own

WRITER = ROOT / "tests" / "export" / "frameworks" / "keras3_networks.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("keras3")
    environment = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, WRITER, folder],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def run(folder, source, *flags):
    return run_command(
        "export.from_framework",
        f"--source={folder / source}",
        f"--output_dir={folder / source}_out",
        *flags,
        "--overwrite",
    )


@pytest.mark.parametrize("source", ["unet.keras", "saved_model"])
def test_a_unet_that_normalizes_pixels_itself(folder, source):
    done = run(folder, source)
    assert done.returncode == 0, done.stderr
    path = folder / f"{source}_out" / "float32.tflite"
    assert "MUL" not in kinds(path.read_bytes())[:1]
    manifest = read_manifest(path)
    assert manifest.preprocessing.mean == (127.5,) * 3
    assert manifest.preprocessing.std == (127.5,) * 3
    (output,) = json.loads((path.parent / "report.json").read_text())["outputs"]
    assert output["share_of_range"] < 1e-4
    assert output["shape"] == [1, 48, 64, 5]
    rebuilt = run_command(
        "tflite_tools.to_keras", f"--model={path}", f"--output_dir={path.parent / 'keras'}"
    )
    assert rebuilt.returncode == 0, rebuilt.stderr


def test_a_mere_factor_is_known_from_the_layer(folder):
    done = run(folder, "only_a_factor.keras")
    assert done.returncode == 0, done.stderr
    manifest = read_manifest(folder / "only_a_factor.keras_out" / "float32.tflite")
    assert manifest.preprocessing == NORMALIZATIONS["none"]


def test_two_outputs_keep_their_names(folder):
    done = run(folder, "two_outputs.keras", "--size=32,48", "--normalization=zero_to_one")
    assert done.returncode == 0, done.stderr
    report = json.loads((folder / "two_outputs.keras_out" / "report.json").read_text())
    assert [output["name"] for output in report["outputs"]] == ["main", "auxiliary"]
    only = run(
        folder,
        "two_outputs.keras",
        "--size=32,48",
        "--normalization=zero_to_one",
        "--outputs=auxiliary",
    )
    assert only.returncode == 0, only.stderr
    report = json.loads((folder / "two_outputs.keras_out" / "report.json").read_text())
    assert [output["name"] for output in report["outputs"]] == ["auxiliary"]


@pytest.mark.parametrize(
    ("source", "flags", "words"),
    [
        ("two_outputs.keras", ["--normalization=none"], "takes any size; give --size"),
        ("two_outputs.keras", ["--size=8,8", "--outputs=x"], "no output x; it has main, auxiliary"),
        ("unet.keras", ["--size=8,8"], "takes 48 x 64, got 8 x 8"),
        ("unet.keras", ["--normalization=imagenet"], "would be normalized twice"),
        ("own_layer.keras", ["--normalization=none"], "give --python_file"),
    ],
)
def test_mistakes_are_one_line(folder, source, flags, words):
    done = run_command(
        "export.from_framework",
        f"--source={folder / source}",
        f"--output_dir={folder / 'refused'}",
        *flags,
    )
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (folder / "refused").exists()


def test_a_layer_of_ones_own_needs_its_file(folder):
    done = run(folder, "own_layer.keras", "--normalization=none", f"--python_file={WRITER}")
    assert done.returncode == 0, done.stderr

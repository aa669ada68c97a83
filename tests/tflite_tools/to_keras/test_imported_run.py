"""Tests that the folder of an import is a run: training, export, evaluation, distillation."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.training.config import read_config
from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.manifest import manifest_path, read_manifest, sha256_of
from tflite_tools.to_keras import convert as to_keras

SIZE = (33, 49)
_RANDOM = np.random.default_rng(4)
_STEM = tf.constant(_RANDOM.normal(0, 0.2, (3, 3, 3, 24)), tf.float32)
_DEPTH = tf.constant(_RANDOM.normal(0, 0.4, (3, 3, 24, 1)), tf.float32)
_LAST = tf.constant(_RANDOM.normal(0, 0.3, (1, 1, 24, 7)), tf.float32)


def _segmentation(x):
    x = tf.nn.relu6(tf.nn.conv2d(x, _STEM, 4, "SAME") + 0.1)
    x = tf.nn.relu6(tf.nn.depthwise_conv2d(x, _DEPTH, (1, 1, 1, 1), "SAME") + 0.1)
    x = resize_bilinear(tf.nn.conv2d(x, _LAST, 1, "SAME"), SIZE, alignment=Alignment.ALIGN_CORNERS)
    return tf.argmax(x, -1)


@pytest.fixture
def conversion(convert):
    return convert(_segmentation, (*SIZE, 3), "int8")


def _command(module, *flags):
    process = run_command(module, *flags, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]
    return process.stdout + process.stderr


def _import(conversion, folder, **values):
    config = to_keras.ImportConfig(
        model=conversion.path, output_dir=folder, dataset="synthetic", **values
    )
    return to_keras.convert(config)


def test_the_sensor_of_range_images_is_kept(conversion, tmp_path):
    content = conversion.path.read_bytes()
    sensor = Sensor(*SIZE, 3.0, -25.0)
    manifest = dataclasses.replace(
        read_manifest(CAMVID / "int8.tflite"),
        sensor=sensor,
        sha256=sha256_of(content),
        size_bytes=len(content),
    )
    manifest.write(manifest_path(conversion.path))
    _import(conversion, tmp_path / "run")
    assert read_config(tmp_path / "run").sensor == sensor


def test_configuration_describes_the_file(conversion, tmp_path):
    result = _import(conversion, tmp_path / "run")
    config = read_config(tmp_path / "run")
    assert config.model.network == "imported"
    assert config.model.logits_alignment is Alignment.ALIGN_CORNERS
    assert (config.crop_height, config.crop_width) == SIZE
    stored = conversion.graph.tensors[conversion.graph.inputs[0]].quantization
    assert config.preprocessing.std == pytest.approx((1 / float(stored.scale[0]),) * 3)
    assert config.preprocessing.mean == (float(stored.zero_point[0]) + 128,) * 3  # int8 input
    assert not result.run.assumed
    assert "a run: train with" in (tmp_path / "run" / "report.md").read_text()


@pytest.mark.slow
def test_import_is_trained_exported_evaluated_and_distilled(conversion, tmp_path):
    """Every command accepts the folder like that of any other run."""
    imported, run = tmp_path / "imported", tmp_path / "run"
    _import(conversion, imported, unfold_batch_norm=True)
    log = _command(
        "deeplab_tf.train",
        "--dataset=synthetic",
        f"--run_dir={run}",
        f"--init_from={imported}",
        f"--teacher={imported}",
        "--train_steps=3",
        "--quantize_delay_step=0",
        "--batch_size=2",
        "--quantize_calibration_images=4",
        "--holdout_images=2",
        "--validation_split=holdout",
    )
    # Both activations and the logits have a range in the file.
    assert "3 ranges of the imported file" in log
    with np.load(run / "quantized.npz") as arrays:
        names = [name for name in arrays.files if name.endswith("_max")]
        assert len(names) >= 3
    _command("export.to_tflite", f"--run_dir={run}", "--calibration_images=4", "--heads=argmax")
    _command(
        "export.to_tflite", f"--run_dir={imported}", "--calibration_images=4", "--heads=argmax"
    )
    table = _command("tflite_tools.evaluate", f"--run_dir={run}", "--limit=4", "--grid_images=0")
    assert "qat_int8_argmax" in table
    manifest = json.loads((run / "tflite" / "qat_int8_argmax.json").read_text())
    assert (manifest["input"]["height"], manifest["input"]["width"]) == SIZE


@pytest.mark.slow
def test_requantize_scores_both_files(conversion, tmp_path):
    out = tmp_path / "again"
    table = _command(
        "export.requantize",
        f"--model={conversion.path}",
        "--dataset=synthetic",
        f"--output_dir={out}",
        "--limit=6",
        "--calibration_images=20",
        "--latency_repeats=2",
        "--mean_over=sky,road",
    )
    assert "mIoU over classes of sky, road with a non-empty union" in table
    metrics = json.loads((out / "evaluation" / "metrics.json").read_text())
    assert [model["model"] for model in metrics["models"]] == ["original", "int8_argmax"]
    # With random weights many pixels are near ties; a broken conversion agrees by chance, 1/7.
    assert metrics["models"][1]["agreement"] > 0.8


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--split=train",), "calibration and evaluation are both split 'train'"),
        (("--variants=qat_int8",), "qat_int8 needs training"),
        (("--mean_over=dragon",), "has no class dragon"),
        (("--heads=mask",), "--heads: unknown 'mask'"),
    ],
)
def test_requantize_rejects_in_one_line(conversion, tmp_path, flags, message):
    out = tmp_path / "again"
    process = run_command(
        "export.requantize",
        f"--model={conversion.path}",
        "--dataset=synthetic",
        f"--output_dir={out}",
        *flags,
        timeout=300,
    )
    assert process.returncode == 1
    (line,) = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not out.exists()

"""The command, from a run folder to a smaller one that exports and trains like any other."""

import json

import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.data.readers.synthetic import LABEL_SET
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.models.config import ImportedConfig
from deeplab_tf.runs.config import TrainingConfig, read_config
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.weights.npz import read_weights, save_weights
from export.conversion.source import RunSource
from tests.children import run_command
from tests.conversions import made_once
from tests.paths import CAMVID
from tflite_tools.contract import read_contract

layers = keras.layers
SIZE = (32, 48)


def write_run(folder):
    """A run of an inverted residual block with 48 channels inside, logits at half size."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*SIZE, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6", name="stem")(image)
    y = layers.Conv2D(48, 1, use_bias=False, name="expand")(x)
    y = layers.ReLU(6.0, name="expand_relu")(layers.BatchNormalization(name="expand_BN")(y))
    y = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name="depthwise")(y)
    x = layers.Add(name="sum")([x, layers.Conv2D(16, 1, name="project")(y)])
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="features")(x)
    x = layers.Conv2D(LABEL_SET.num_classes, 1, name="logits")(x)
    description, arrays = graph_from_keras(keras.Model(image, x))
    config = TrainingConfig.from_settings(
        model=ImportedConfig(num_classes=LABEL_SET.num_classes, description=description),
        dataset="synthetic",
        crop_height=SIZE[0],
        crop_width=SIZE[1],
    )
    run = RunFolder(folder)
    run.prepare(config, LABEL_SET)
    save_weights(arrays, run.weights(Phase.FLOAT))


def compress(*flags):
    return run_command("export.compress", *flags, timeout=500)


QUICK = ("--calibration_images=4", "--loss_images=2", "--holdout_images=4", "--latency_repeats=3")


@pytest.fixture(scope="module")
def compressed(tmp_path_factory):
    """A compression to 60 % of the bytes with formats to choose from, and its output."""
    folder = made_once(tmp_path_factory, "compression", _compress)
    return folder / "run" / "compressed", (folder / "output.txt").read_text()


def _compress(folder):
    write_run(folder / "run")
    done = compress(f"--run_dir={folder / 'run'}", "--megabytes=0.012", "--formats=float32", *QUICK)
    (folder / "output.txt").write_text(f"{done.returncode}\n{done.stdout}\n{done.stderr}")


@pytest.mark.slow
def test_the_file_meets_its_budget(compressed):
    folder, output = compressed
    assert output.startswith("0\n"), output[-2000:]
    assert "file size: met" in output
    values = json.loads((folder / "compression.json").read_text())
    attempt = values["attempts"][values["chosen"]]
    contract = read_contract(folder / "tflite" / "int8.tflite")
    assert attempt["measured"]["size_bytes"] == contract.size_bytes <= 12_000
    assert attempt["measured"]["download_bytes"] == contract.download_bytes
    assert attempt["uncompressed"]["size_bytes"] > 14_000
    assert set(attempt["kept"]) == {"stem", "expand", "features"}
    assert all(kept % 8 == 0 for kept in attempt["kept"].values())
    assert values["fixed"] == {"logits": "the network's output"}
    # Prediction of the bytes from kernels alone against the finished file.
    assert attempt["predicted"]["bytes"] == pytest.approx(contract.size_bytes, rel=0.1)
    assert not (folder / "attempts").exists()
    assert (folder / "compression.png").stat().st_size > 5000
    assert len((folder / "compression.csv").read_text().splitlines()) == 4


@pytest.mark.slow
def test_the_result_is_a_run(compressed):
    folder, _ = compressed
    config = read_config(folder)
    values = json.loads((folder / "compression.json").read_text())
    kept = values["attempts"][values["chosen"]]["kept"]
    arrays = read_weights(RunFolder(folder).weights(Phase.FLOAT))
    assert arrays["features_conv/kernel"].shape == (3, 3, kept["stem"], kept["features"])
    assert "features_linear/gamma" in arrays  # a batch norm to train with
    model = RunSource(RunFolder(folder)).float_model(*SIZE)
    assert model.count_params() < 20_000
    assert model.output_shape[-1] == config.model.num_classes
    again = RunSource(RunFolder(folder)).float_model(*SIZE)
    image = np.random.default_rng(0).uniform(-1, 1, (1, *SIZE, 3)).astype(np.float32)
    np.testing.assert_array_equal(model(image), again(image))


@pytest.mark.slow
def test_an_earlier_result_is_not_replaced(compressed):
    folder, _ = compressed
    done = compress(f"--run_dir={folder.parent}", "--time=0.5")
    assert done.returncode == 1
    assert "holds a run; give another --output_dir or --overwrite" in done.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected a budget, got none"),
        (("--time=2",), "--time: expected a fraction below 1"),
        (("--time=0.5", "--formats=int4"), "--formats: unknown 'int4'"),
        (("--time=0.5", "--split=val"), "--split=val is a list that results are reported on"),
        (("--time=0.5", "--model=b"), "expected one of --run_dir, --model"),
        (("--time=0.5", f"--output_dir={CAMVID}", "--overwrite"), "--output_dir would replace"),
    ],
)
def test_bad_input(tmp_path, flags, message):
    done = compress(f"--run_dir={CAMVID}", f"--output_dir={tmp_path / 'o'}", *flags)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "o").exists()

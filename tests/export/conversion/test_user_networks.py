"""Networks with structures from public bug reports, as small files: what became of each."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from PIL import Image

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from export.conversion import freeze
from export.conversion.head import apply_head
from export.conversion.pipeline import export_files
from export.conversion.source import KerasFileSource
from export.conversion.variants import Head, Variant, plan_files
from tests.children import run_command
from tests.export.conftest import make_plan
from tests.zoo import pixels
from tflite_tools.contract import read_contract
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.runner import ModelRunner

LABELS = LabelSet.from_names(["background", "road"])
ZERO_TO_ONE = Preprocessing((0.0,) * 3, (255.0,) * 3)


def exported(source, folder, variants, heads=(Head.LOGITS,), **changes):
    """{file name: path} of an export of a network of 96 x 128 and two classes."""
    files = plan_files(list(variants), list(heads))[0]
    plan = make_plan(folder, files, label_set=LABELS, preprocessing=ZERO_TO_ONE, **changes)
    results = export_files(source, plan)
    assert [result.failure for result in results] == [""] * len(files)
    return {result.path.name: result.path for result in results}


@pytest.mark.parametrize("name", ["silu_imagenet", "relu_then_batch_norm"])
@pytest.mark.slow
def test_network_is_exported_and_its_integers_follow_float(shared_dir, tmp_path, name):
    """Swish has a gradient of its own, which cannot be saved; a batch norm behind a ReLU stays."""
    source = KerasFileSource(shared_dir / "models" / "user_networks" / f"{name}.h5")
    height, width = source.fixed_size or (96, 128)
    paths = exported(source, tmp_path, [Variant.FLOAT32, Variant.INT8], height=height, width=width)
    images = pixels(2, size=(height, width))
    model = source.float_model(height, width)
    run = FileRunner(paths["float32.tflite"])
    for image in images:
        real = ZERO_TO_ONE.normalize(image[None])
        np.testing.assert_allclose(run(real), model(real), atol=1e-3)
    masks = [
        [ModelRunner(read_contract(path)).class_map(image) for image in images]
        for path in paths.values()
    ]
    assert np.mean(np.array(masks[0]) == np.array(masks[1])) > 0.9


@pytest.mark.slow
def test_one_sigmoid_is_a_segmentation_of_two_classes(shared_dir, tmp_path):
    """Its argmax head was 0 everywhere, without a word."""
    source = KerasFileSource(shared_dir / "models" / "user_networks" / "sigmoid_one_channel.h5")
    height, width = source.fixed_size or (96, 128)
    paths = exported(
        source,
        tmp_path,
        [Variant.FLOAT32, Variant.INT8],
        heads=[Head.LOGITS, Head.ARGMAX],
        height=height,
        width=width,
    )
    contract = read_contract(paths["float32.tflite"])
    assert (contract.num_classes, contract.threshold) == (2, 0.5)
    model = source.float_model(height, width)
    for image in pixels(2, size=(height, width)):
        score = np.asarray(model(ZERO_TO_ONE.normalize(image[None])))[0, ..., 0]
        expected = score > 0.5
        assert 0.02 < expected.mean() < 0.98, "the picture must hold both classes"
        for name in ("float32.tflite", "float32_argmax.tflite"):
            found = ModelRunner(read_contract(paths[name])).class_map(image)
            assert (found == expected).mean() > 0.999, name
        for name in ("int8.tflite", "int8_argmax.tflite"):
            found = ModelRunner(read_contract(paths[name])).class_map(image)
            assert (found == expected).mean() > 0.95, name


@pytest.mark.parametrize(("threshold", "expected"), [(0.0, [0, 0, 1, 1]), (0.5, [0, 0, 0, 1])])
def test_class_map_of_one_score(threshold, expected):
    score = tf.constant([[[[-1.0], [0.0], [0.5], [0.7]]]])
    found = apply_head(score, Head.ARGMAX, height=1, width=4, threshold=threshold)
    assert found.dtype == tf.uint8
    np.testing.assert_array_equal(found[0, 0], expected)


def test_a_sigmoid_at_the_end_is_seen():
    image = keras.Input((8, 8, 3))
    ends = {
        "inside": keras.layers.Conv2D(1, 1, activation="sigmoid")(image),
        "behind": keras.layers.Activation("sigmoid")(keras.layers.Conv2D(1, 1)(image)),
        "none": keras.layers.Conv2D(1, 1)(image),
    }
    found = {name: freeze._ends_in_sigmoid(keras.Model(image, end)) for name, end in ends.items()}
    assert found == {"inside": True, "behind": True, "none": False}


@pytest.fixture
def keras_file(tmp_path):
    """A network of one convolution over images of some channels."""

    def write(channels=3, size=(32, 48)):
        image = keras.Input((*size, channels))
        keras.Model(image, keras.layers.Conv2D(7, 1)(image)).save(tmp_path / "m.keras")
        return tmp_path / "m.keras"

    return write


def export(keras_file, output_dir, *flags):
    return run_command(
        "export.to_tflite",
        f"--keras_file={keras_file}",
        f"--output_dir={output_dir}",
        "--dataset=synthetic",
        "--variants=float32",
        "--heads=logits",
        *flags,
        timeout=300,
    )


def test_one_number_is_the_mean_of_every_channel_and_the_size_is_the_files_own(
    keras_file, tmp_path
):
    done = export(keras_file(), tmp_path / "out", "--mean=0", "--std=255")
    assert done.returncode == 0, done.stderr[-2000:]
    contract = read_contract(tmp_path / "out" / "float32.tflite")
    assert contract.preprocessing == ZERO_TO_ONE
    assert (contract.height, contract.width) == (32, 48)


@pytest.mark.parametrize(
    ("channels", "flags", "message"),
    [
        (3, ("--mean=1,2",), "--mean: expected one number, or 3 for images of 3 channel(s), got 2"),
        (4, ("--variants=int8",), "takes images of 4 channel(s), synthetic has 3; give images"),
        (1, ("--variants=int8",), "takes images of 1 channel(s), synthetic has 3; give images"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_converted(
    keras_file, tmp_path, channels, flags, message
):
    done = export(keras_file(channels), tmp_path / "out", *flags)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def gray_photos(tmp_path):
    """A folder of eight RGB photos, dark above and bright below, with masks."""
    for name in ("images", "labels"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(8):
        mask = np.zeros((32, 48), np.uint8)
        mask[8 + 2 * index :] = 1
        photo = np.where(mask[..., None], 200, 60) + generator.integers(-30, 30, (32, 48, 3))
        Image.fromarray(photo.astype(np.uint8)).save(tmp_path / f"photos/images/{index}.png")
        Image.fromarray(mask).save(tmp_path / f"photos/labels/{index}.png")
    (tmp_path / "photos" / "classes.txt").write_text("above\nbelow\n")
    return tmp_path / "photos"


@pytest.mark.slow
def test_gray_network_is_exported_scored_and_trained_from_its_file(tmp_path, gray_photos):
    """From a Keras file of one channel to scores, and straight into a training."""
    image = keras.Input((32, 48, 1))
    model = keras.Model(image, keras.layers.Conv2D(2, 1, name="scores")(image))
    model.set_weights([np.array([[[[-4.0, 4.0]]]]), np.zeros(2)])  # bright is class 1
    model.save(tmp_path / "gray.keras")
    data = ("--dataset=folder", f"--data_dir={gray_photos}")
    out = tmp_path / "out"
    done = run_command(
        "export.to_tflite",
        f"--keras_file={tmp_path / 'gray.keras'}",
        f"--output_dir={out}",
        "--variants=float32,int8",
        "--heads=logits",
        "--calibration_images=4",
        *data,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    done = run_command(
        "tflite_tools.evaluate",
        f"--model={out / 'float32.tflite'},{out / 'int8.tflite'}",
        "--latency_repeats=0",
        "--split=train",
        f"--output_dir={tmp_path / 'scores'}",
        *data,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    metrics = json.loads((tmp_path / "scores" / "metrics.json").read_text())
    assert [file["miou"] > 0.9 for file in metrics["models"]] == [True, True]
    done = run_command(
        "deeplab_tf.train",
        f"--run_dir={tmp_path / 'run'}",
        f"--init_from={tmp_path / 'gray.keras'}",
        "--mean=128",
        "--std=128",
        "--train_steps=2",
        "--quantize_delay_step=0",
        "--batch_size=2",
        "--quantize_calibration_images=2",
        *data,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "quantized.npz").is_file()
    assert (tmp_path / "run" / "start" / "report.md").is_file()

"""Tests of the command: its files, its error messages, and damaged input files."""

import dataclasses
import json
import zipfile

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.weights.matching import load_named
from deeplab_tf.weights.npz import read_weights
from tests.children import run_command
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.metadata.packing import read_labels
from tflite_tools.to_keras import convert as to_keras
from tflite_tools.to_keras.importer import import_file, import_graph

_KERNEL = tf.constant(np.random.default_rng(2).normal(size=(3, 3, 3, 5)).astype(np.float32))


def _function(x):
    x = tf.nn.relu6(tf.nn.conv2d(x, _KERNEL, 2, "SAME"))
    return tf.argmax(tf.image.resize(x, (32, 24)), -1)


@pytest.fixture
def conversion(convert):
    return convert(_function, (32, 24, 3))


def _config(conversion, folder, **values):
    return to_keras.ImportConfig(model=conversion.path, output_dir=folder, **values)


def test_folder_holds_the_network(conversion, tmp_path):
    folder = tmp_path / "out"
    to_keras.convert(_config(conversion, folder, preprocessing=Preprocessing((127.5,), (127.5,))))
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "labels.json",
        "network.json",
        "float.npz",
        "ranges.json",
        "report.json",
        "report.md",
    }
    description = NetworkGraph.from_json(json.loads((folder / "network.json").read_text()))
    model = build_model(description)
    assert not load_named(model, read_weights(folder / "float.npz")).missing
    assert np.array_equal(model(conversion.images[0]), conversion.outputs()[0])
    report = json.loads((folder / "report.json").read_text())
    assert [row["operator"] for row in report["operators"]] == conversion.kinds
    assert report["input"]["mean"] == report["input"]["std"] == [127.5] * 3
    assert "| ARG_MAX |" in (folder / "report.md").read_text()


def test_nothing_is_overwritten_without_the_flag(conversion, tmp_path):
    config = _config(conversion, tmp_path / "out")
    to_keras.convert(config)
    with pytest.raises(FileExistsError, match="--overwrite"):
        to_keras.convert(config)
    to_keras.convert(dataclasses.replace(config, overwrite=True))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_classes": 3}, "num_classes needs trim_head"),
        ({"unfold_batch_norm": True}, "give --dataset"),
        ({"unfold_batch_norm": True, "simulate_quantization": True}, "exclude each other"),
        ({"calibration_images": 0}, "must be positive"),
        (
            {"compare": True, "dataset": "voc", "trim_head": "x"},
            "leave --trim_head out",
        ),
    ],
)
def test_invalid_combinations_are_rejected(conversion, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        _config(conversion, tmp_path / "out", **values)


def test_float_file_has_nothing_to_simulate(conversion, tmp_path):
    with pytest.raises(ValueError, match="no integer activations"):
        to_keras.convert(_config(conversion, tmp_path / "out", simulate_quantization=True))
    assert not (tmp_path / "out").exists()


def test_unknown_operator_writes_nothing(convert, tmp_path):
    """The one-line message has the operator, its position, its neighbors and the known kinds."""
    path = tmp_path / "cumsum.tflite"
    function = tf.function(
        lambda x: tf.nn.relu(tf.cumsum(tf.tanh(x), axis=1)),
        input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)],
    )
    path.write_bytes(
        tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], tf.Module()
        ).convert()
    )
    done = run_command(
        "tflite_tools.to_keras", f"--model={path}", f"--output_dir={tmp_path / 'out'}"
    )
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    for words in (
        "operator 1, CUMSUM",
        "after TANH, before RELU",
        "--trim_head='",
        "the network up to",
    ):
        assert words in line
    assert not (tmp_path / "out").exists()


def test_edge_tpu_file_is_named(conversion):
    first = dataclasses.replace(conversion.graph.operators[0], kind="CUSTOM:edgetpu-custom-op")
    graph = dataclasses.replace(
        conversion.graph, operators=(first, *conversion.graph.operators[1:])
    )
    with pytest.raises(
        ValueError, match=r"compiled for Edge TPU .*give the file that was compiled"
    ):
        import_graph(graph)


def test_input_contract_of_float_files_comes_from_the_user(conversion):
    assert not import_graph(conversion.graph).contract.is_known
    one = import_file(conversion.path, given=Preprocessing((3.0,), (2.0,))).contract
    assert one.is_known
    assert one.preprocessing == Preprocessing((3.0,) * 3, (2.0,) * 3)
    each = Preprocessing((1.0, 2.0, 3.0), (4.0, 5.0, 6.0))
    assert import_file(conversion.path, given=each).contract.preprocessing == each
    with pytest.raises(ValueError, match="expected a normalization of 3 channel"):
        import_file(conversion.path, given=Preprocessing((1.0, 2.0), (1.0, 1.0)))


def test_input_contract_of_integer_files(convert):
    """real = scale * (q - zero_point); an int8 value is the pixel minus 128."""
    conversion = convert(
        lambda x: tf.nn.relu6(tf.nn.conv2d(x, _KERNEL, 2, "SAME")), (32, 24, 3), "int8"
    )
    contract = conversion.network.contract
    assert contract.dtype == "int8"
    scale, zero_point = contract.quantization
    real = scale * ((200 - 128) - zero_point)
    pixel = np.full((1, 1, 1, 3), 200, np.uint8)
    assert contract.real_values(pixel)[0, 0, 0, 0] == pytest.approx(real)
    assert contract.preprocessing.normalize(pixel)[0, 0, 0, 0] == pytest.approx(real)
    mean, std = contract.preprocessing.mean[0], contract.preprocessing.std[0]
    given = import_file(conversion.path, given=Preprocessing((mean + 50,), (std,))).contract
    assert any("the preprocessing gives" in warning for warning in given.warnings)


def test_labels_packed_into_the_file(conversion, tmp_path):
    assert read_labels(conversion.path) == ()
    with zipfile.ZipFile(conversion.path, "a") as packed:
        packed.writestr("readme.txt", "no labels")
        packed.writestr("labelmap.txt", "sky\nroad\n\ncar\n")
    assert read_labels(conversion.path) == ("sky", "road", "car")
    assert import_file(conversion.path).arrays  # the file is still read


def test_damaged_files_raise_a_value_error_or_are_read(conversion, tmp_path):
    """Seeded bit flips and cuts never raise another exception."""
    content = conversion.path.read_bytes()
    random = np.random.default_rng(11)
    rejected = 0
    for number in range(120):
        damaged = bytearray(content)
        if number % 6 == 0:
            del damaged[int(random.integers(16, len(content))) :]
        else:
            for position in random.integers(8, len(content), 4):
                damaged[position] ^= 1 << int(random.integers(8))
        path = tmp_path / "damaged.tflite"
        path.write_bytes(bytes(damaged))
        try:
            import_graph(read_graph(path))
        except ValueError:
            rejected += 1
    assert rejected >= 20  # all 20 cut files, and more

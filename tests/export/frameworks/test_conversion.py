"""The whole way with a stand-in for the framework: what is written, and what is refused."""

import json
import shutil
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from export.frameworks import worker as workers
from export.frameworks.conversion import convert
from export.frameworks.request import NORMALIZATIONS, ConversionRequest
from tests.export.rewriting.tf_functions import converted, kinds
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.input_contract import PreprocessingSource
from tflite_tools.manifest import read_manifest

SHAPE = (1, 3, 24, 32)
RANDOM = np.random.default_rng(6)
KERNEL = tf.constant(RANDOM.normal(size=(3, 3, 3, 5)).astype(np.float32) / 10)
SCRIPT = """
import sys, pathlib, shutil
sys.path.insert(0, {workers!r})
import numpy as np, protocol
def main():
    request, folder = protocol.read_request()
    (folder / "seen.json").write_text(repr(request))
    print("a library that prints")
    {before}
    shutil.copy({model!r}, folder / "model.tflite")
    protocol.write_result(folder, outputs=["main", "aux"], versions={{"fake": "1.0"}})
    images = protocol.wait_for_inputs(folder)
    {after}
    protocol.write_references(folder, [list(map(np.asarray, compute(i))) for i in images])
{compute}
protocol.run(main)
"""
COMPUTE = """
def compute(image):
    kernel = np.load({kernel!r})
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = image.shape[1:3]
    main = sum(
        padded[:, i:i + height, j:j + width] @ kernel[i, j] for i in range(3) for j in range(3)
    )
    return main, image.mean((1, 2)) {error}
"""


def network(image):
    """Two outputs in another order than the stand-in's, channels first."""
    x = tf.transpose(image, (0, 2, 3, 1))
    main = tf.nn.conv2d(x, KERNEL, 1, "SAME")
    return tf.reduce_mean(x, (1, 2)), tf.transpose(main, (0, 3, 1, 2))


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A function that puts a script in the place of the framework; returns a request."""
    (tmp_path / "net.onnx").write_bytes(b"only the stand-in reads it")

    def put(before="pass", after="pass", error="", function=network, shape=SHAPE, **settings):
        scripts = tmp_path / "scripts"
        scripts.mkdir(exist_ok=True)
        model, kernel = tmp_path / "made.tflite", tmp_path / "kernel.npy"
        model.write_bytes(converted(function, shape))
        np.save(kernel, KERNEL.numpy())
        names = {"workers": str(workers._SCRIPTS), "model": str(model)}
        compute = COMPUTE.format(kernel=str(kernel), error=error)
        script = SCRIPT.format(before=before, after=after, compute=compute, **names)
        (scripts / "convert_onnx.py").write_text(script)
        monkeypatch.setattr(workers, "_SCRIPTS", scripts)
        monkeypatch.setattr(workers, "python_of", lambda *_, **__: sys.executable)
        settings = {"preprocessing": NORMALIZATIONS["imagenet"], **settings}
        return ConversionRequest(
            source=tmp_path / "net.onnx",
            output_dir=tmp_path / "out",
            environments=tmp_path / "environments",
            **settings,
        )

    return put


def test_a_channels_first_file_comes_out_for_camera_pixels(stand_in):
    result = convert(stand_in())
    assert [output.name for output in result.outputs] == ["main", "aux"]
    assert max(output.deviation for output in result.outputs) < 1e-5
    content = result.path.read_bytes()
    assert "TRANSPOSE" not in kinds(content)
    assert kinds(content)[0] == "DEPTHWISE_CONV_2D"
    contract = read_contract(result.path)
    assert (contract.height, contract.width, contract.channels) == (24, 32, 3)
    assert contract.num_classes == 5
    assert contract.preprocessing_source is PreprocessingSource.MANIFEST
    assert contract.preprocessing.uint8_quantization == (1 / 128, 128)
    report = json.loads((result.path.parent / "report.json").read_text())
    assert [output["name"] for output in report["outputs"]] == ["main", "aux"]
    assert report["versions"] == {"fake": "1.0"}


def test_without_folding_the_manifest_states_the_normalization(stand_in):
    result = convert(stand_in(fold_normalization=False))
    assert "DEPTHWISE_CONV_2D" not in kinds(result.path.read_bytes())
    assert read_manifest(result.path).preprocessing == NORMALIZATIONS["imagenet"]


def test_one_scale_for_all_channels_needs_no_folding(stand_in):
    result = convert(stand_in(preprocessing=NORMALIZATIONS["zero_to_one"]))
    assert "DEPTHWISE_CONV_2D" not in kinds(result.path.read_bytes())
    assert read_manifest(result.path).preprocessing == NORMALIZATIONS["zero_to_one"]


def test_labels_go_into_the_manifest(stand_in):
    result = convert(stand_in(labels=("a", "b", "c", "d", "e")))
    assert read_manifest(result.path).label_set.names == ("a", "b", "c", "d", "e")


def test_photos_are_compared(stand_in, tmp_path):
    (tmp_path / "photos").mkdir()
    for seed in range(2):
        Image.fromarray(draw_scene(seed)[0]).save(tmp_path / "photos" / f"{seed}.png")
    assert convert(stand_in(photos=tmp_path / "photos")).pictures == "2 photos"


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"error": "+ 1"}, ValueError, "does not compute what onnx computes"),
        ({"before": "raise protocol.RefusalError('give\\n--size')"}, ValueError, "^give --size$"),
        ({"before": "raise KeyError('Foo')"}, RuntimeError, "could not be converted.*KeyError"),
        ({"before": "sys.exit(3)"}, RuntimeError, "ended with status 3"),
        ({"after": "raise KeyError('Foo')"}, RuntimeError, "could not be run.*KeyError"),
        ({"before": "import time; time.sleep(60)", "timeout_s": 1.0}, RuntimeError, "within 1 s"),
        ({"preprocessing": None}, ValueError, "give --normalization=imagenet"),
        ({"labels": ("a",)}, ValueError, "--labels: expected 5 names, got 1"),
        ({"photos": "EMPTY"}, ValueError, "expected images, got none"),
        ({"function": lambda x: x + tf.zeros(())}, ValueError, "expected the framework's 2"),
    ],
)
def test_nothing_is_written_after_a_mistake(stand_in, tmp_path, settings, error, words):
    if settings.get("photos") == "EMPTY":
        (tmp_path / "photos").mkdir()
        settings = {**settings, "photos": tmp_path / "photos"}
    with pytest.raises(error, match=words):
        convert(stand_in(**settings))
    assert not (tmp_path / "out").exists()


def test_an_own_normalization_is_recognized(stand_in):
    def normalizing(image):
        return network(image / 127.5 - 1.0)

    # The stand-in computes with pixels as they are, and normalizes them itself.
    request = stand_in(
        after="images = [image / 127.5 - 1 for image in images]",
        function=normalizing,
        preprocessing=None,
    )
    result = convert(request)
    assert kinds(result.path.read_bytes())[0] != "MUL"
    assert result.preprocessing == NORMALIZATIONS["minus_one_to_one"]
    assert any("became the contract" in step for step in result.steps)


def test_normalizing_twice_is_refused(stand_in):
    with pytest.raises(ValueError, match="would be normalized twice"):
        convert(stand_in(function=lambda image: network(image / 255.0)))


def test_a_file_with_the_channels_first_needs_no_framework(tmp_path):
    source = tmp_path / "nchw.tflite"
    source.write_bytes(converted(network, SHAPE))
    request = ConversionRequest(
        source=source,
        output_dir=tmp_path / "out",
        environments=tmp_path / "none",
        preprocessing=NORMALIZATIONS["zero_to_one"],
    )
    result = convert(request)
    assert result.outputs == ()
    assert "TRANSPOSE" not in kinds(result.path.read_bytes())
    assert read_contract(result.path).num_classes == 5


def test_an_integer_file_is_refused(tmp_path):
    shutil.copy(CAMVID / "int8.tflite", tmp_path / "int8.tflite")
    request = ConversionRequest(
        source=tmp_path / "int8.tflite",
        output_dir=tmp_path / "out",
        environments=tmp_path / "none",
        preprocessing=NORMALIZATIONS["none"],
    )
    with pytest.raises(ValueError, match="expected a float32 image input"):
        convert(request)


def boxes_and_masks(image):
    """What a network that detects and segments gives."""
    main = tf.nn.conv2d(tf.transpose(image, (0, 2, 3, 1)), KERNEL, 1, "SAME")
    return tf.reshape(main[:, :4, :4, :4], (1, 4, 16)), main


@pytest.mark.parametrize("labels", [(), ("a", "b", "c", "d", "e")])
def test_masks_beside_boxes_are_classes_only_if_the_user_says_so(tmp_path, labels, caplog):
    source = tmp_path / "boxes.tflite"
    source.write_bytes(converted(boxes_and_masks, SHAPE))
    result = convert(
        ConversionRequest(
            source=source,
            output_dir=tmp_path / "out",
            environments=tmp_path,
            preprocessing=NORMALIZATIONS["zero_to_one"],
            labels=labels,
        )
    )
    assert result.has_manifest is bool(labels)
    assert ("as of boxes" in caplog.text) is not bool(labels)

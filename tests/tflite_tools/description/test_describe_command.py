"""describe: the contract at a glance, lines that feed the file, and where its time goes."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.images import read_mask
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import run_command
from tests.paths import CAMVID, ROOT
from tests.tflite_tools.one_convolution import stripes, write_brightest_channel
from tests.tflite_tools.test_output_form import graph_of
from tflite_tools.benchmarking.profile import OperatorTime, Profile
from tflite_tools.contract import read_contract
from tflite_tools.description.advice import advise
from tflite_tools.description.description import describe
from tflite_tools.description.outputs import describe_outputs
from tflite_tools.evaluation.mask_grid import predict_all
from tflite_tools.flatbuffer.graph import read_graph

DESCRIBE = "tflite_tools.describe"
INT8 = CAMVID / "int8.tflite"


def run(*flags, status=0):
    done = run_command(DESCRIBE, *flags)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_the_text_of_a_zoo_file():
    text = run(INT8).stdout
    assert "uint8 [1, 368, 480, 3], NHWC, RGB" in text
    assert "(pixel - 128) / 128" in text
    assert "stated by the manifest" in text
    assert "logits of 11 classes" in text
    assert "11: sky, building, pole, road" in text
    assert "one scale per channel" in text
    assert "as a download (deflate)" in text
    assert "multiply-adds" in text
    assert "val canvas = Bitmap.createBitmap(480, 368" in text
    assert text.splitlines()[-1].startswith("To be faster: ")


def test_the_values_for_programs():
    values = json.loads(run(f"--model={INT8}", "--json", "--repeats=0").stdout)
    assert values["certainty"] == "stated"
    assert values["contract"]["mean"] == [128, 128, 128]
    assert values["outputs"][0]["kind"] == "logits"
    assert values["outputs"][0]["classes"] == 11
    assert values["ms"] is None
    assert sum(each["multiply_adds"] for each in values["operators"]) == values["multiply_adds"]
    assert 0.8 < values["download_bytes"] / values["size_bytes"] < 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "expected a file"),
        (("nothing.tflite",), "no such file"),
        ((str(ROOT / "README.md"),), "not a .tflite"),
        ((str(INT8), "--mean=1"), "--mean and --std"),
    ],
)
def test_one_line_for_what_cannot_be_described(flags, message):
    assert message in run(*flags, status=1).stderr


def test_two_files_are_too_many():
    assert "unexpected argument" in run(INT8, INT8, status=2).stderr


def test_no_tensorflow_is_loaded():
    code = (
        "import sys, tflite_tools.describe, tflite_tools.segment\n"
        "print(sorted({'tensorflow', 'matplotlib', 'av'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


# How sure the normalization is


def test_a_file_that_says_nothing_is_unknown(tmp_path):
    found = describe(write_brightest_channel(tmp_path / "x.tflite"), repeats=0)
    assert found.certainty == "unknown"
    assert "NOT ON RECORD" in found.normalization
    assert "not on record" in found.python


def test_a_graph_that_divides_is_a_hint_and_no_more(tmp_path):
    found = describe(write_brightest_channel(tmp_path / "x.tflite", factor=1 / 255), repeats=0)
    assert found.certainty == "unknown"
    assert "speaks for (pixel - 0) / 1" in found.normalization


def test_a_scale_implies_it(tmp_path):
    (tmp_path / "x.tflite").write_bytes(INT8.read_bytes())
    found = describe(tmp_path / "x.tflite", repeats=0)
    assert found.certainty == "implied"
    assert "(pixel - 128) / 128" in found.normalization


def test_the_caller_says_it(tmp_path):
    path = write_brightest_channel(tmp_path / "x.tflite")
    found = describe(path, Preprocessing((127.5,), (127.5,)), repeats=0)
    assert found.certainty == "given"
    assert "np.float32(127.5)" in found.python


# The lines that feed it


def run_lines(code, folder):
    """The mask of the printed program."""
    program = code + 'mask.save("mask.png")\n'
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return read_mask(folder / "mask.png")


@pytest.mark.parametrize("name", ["bytes", "float32"])
def test_the_printed_python_gives_the_mask(name, tmp_path):
    if name == "bytes":
        image, path = draw_scene(5)[0], tmp_path / "int8.tflite"
        for suffix in (".tflite", ".json"):
            path.with_suffix(suffix).write_bytes(INT8.with_suffix(suffix).read_bytes())
        found, expected = describe(path, repeats=0), predict_all([read_contract(path)], [image])
        expected = expected[0, 0]
    else:
        path = write_brightest_channel(tmp_path / "x.tflite", (48, 64))
        image, expected = stripes((24, 32))
        found = describe(path, Preprocessing((100,), (50,)), repeats=0)
    Image.fromarray(image).save(tmp_path / "photo.jpg", "PNG")
    np.testing.assert_array_equal(run_lines(found.python, tmp_path), expected)


def test_the_printed_python_transposes_for_channels_first(shared_dir, tmp_path):
    path = tmp_path / "nchw.tflite"
    path.write_bytes((shared_dir / "models" / "user_networks" / "nchw.tflite").read_bytes())
    given, image = Preprocessing((0.0,), (255.0,)), draw_scene(5)[0]
    Image.fromarray(image).save(tmp_path / "photo.jpg", "PNG")
    found = describe(path, given, repeats=0)
    assert found.inputs[0].layout == "NCHW"
    expected = predict_all([read_contract(path, given)], [image])[0, 0]
    np.testing.assert_array_equal(run_lines(found.python, tmp_path), expected)


def test_the_printed_kotlin_has_the_numbers_of_the_file(tmp_path):
    path = write_brightest_channel(tmp_path / "x.tflite", (48, 64))
    lines = describe(path, Preprocessing((100,), (50,)), repeats=0).kotlin
    assert "input.putFloat((green - 100f) / 50f)" in lines
    assert "ByteBuffer.allocateDirect(64 * 48 * 3 * 4)" in lines
    assert f"ByteBuffer.allocateDirect({48 * 64 * 3 * 4})" in lines
    assert "(0 until 3).maxByOrNull { scores[at * 3 + it] }" in lines


# Outputs


@pytest.mark.parametrize(
    ("output", "kind", "meaning"),
    [
        (((1, 96, 192, 5), "FLOAT32", None), "logits", "logits of 5 classes"),
        (((1, 24, 48, 5), "FLOAT32", None), "logits", "at 24 x 48: resize to 96 x 192"),
        (((1, 96, 192, 3), "FLOAT32", None), "logits", "or a picture"),
        (((1, 96, 192, 1), "FLOAT32", None), "score", "one score per pixel"),
        (((1, 96, 192), "INT32", None), "class map", "one class number per pixel"),
        (((1, 100, 4), "FLOAT32", None), "boxes", "100 boxes of 4 values"),
        (((1, 2016, 18), "FLOAT32", None), "boxes", "2016 rows of 18 values"),
        (((1, 1000), "FLOAT32", None), "vector", "1000 values"),
        (((), "FLOAT32", None), "vector", "1 value,"),
    ],
)
def test_what_an_output_is(output, kind, meaning):
    [found] = describe_outputs(graph_of(output), (96, 192))
    assert found.kind == kind
    assert meaning in found.meaning


def test_a_softmax_at_the_end_makes_probabilities():
    [mask] = describe_outputs(
        graph_of(((1, 96, 192, 5), "FLOAT32", None), kind="SOFTMAX"), (96, 192)
    )
    [vector] = describe_outputs(graph_of(((1, 10), "FLOAT32", None), kind="SOFTMAX"), (96, 192))
    assert mask.kind == "probabilities"
    assert "softmax" in vector.meaning


# Advice


def profile_of(graph, ms, kernel="XNNPACK"):
    """A profile in which each operator takes what `ms` says of its kind, else one millisecond."""
    return Profile(
        "x",
        tuple(
            OperatorTime(o.position, o.kind, "layer", kernel, 0, {1: ms.get(o.kind, 1.0)})
            for o in graph.operators
        ),
    )


def test_a_float_file_is_told_to_use_integers(tmp_path):
    graph = read_graph(write_brightest_channel(tmp_path / "x.tflite"))
    found = advise(graph, "float32", profile=None, size=(24, 32))
    assert "computes in float32" in found.sentence
    assert not found.measured


def test_an_expensive_end_is_named():
    graph = read_graph(INT8)
    profile = profile_of(graph, {"QUANTIZE": 1e4})  # one of two stands at the end
    found = advise(graph, "int8", profile=profile, size=(368, 480))
    assert "QUANTIZE behind the last convolution take 50% of the time" in found.sentence
    assert found.measured


def test_kernels_that_are_not_replaced_are_named():
    graph = read_graph(INT8)
    found = advise(graph, "int8", profile=profile_of(graph, {}, "builtin"), size=(368, 480))
    assert "the runtime's own kernels" in found.sentence


def test_an_even_integer_file_gets_a_smaller_input():
    graph = read_graph(INT8)
    profile = profile_of(graph, {"CONV_2D": 3.0})
    found = advise(graph, "int8", profile=profile, size=(368, 480))
    assert "an input of 256 x 336 instead of 368 x 480" in found.sentence
    assert found.saves == pytest.approx(0.5, abs=0.05)


def test_an_old_uint8_file_is_told_to_use_channels(shared_dir):
    path = shared_dir / "models" / "deeplabv3_mnv2_pascal_quant.tflite"
    found = describe(path, repeats=0)
    assert found.per_channel is False
    assert "one scale per tensor" in found.advice.sentence


def test_every_small_real_file_is_described(shared_dir):
    folder = shared_dir / "models" / "third_party"
    small = [path for path in sorted(folder.glob("*.tflite")) if path.stat().st_size < 5e5]
    assert len(small) > 10
    for path in small:
        found = describe(path, repeats=0)
        assert found.outputs and found.advice.sentence and found.operators

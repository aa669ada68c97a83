"""The result of a phone: its mask against ours, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import run_command
from tests.paths import CAMVID
from tests.phone_results import packed, phone_result
from tflite_tools.deployment.golden import GoldenOptions, write_golden
from tflite_tools.deployment.phone_result import (
    compare_with_file,
    compare_with_pair,
    read_phone_result,
)

INT8 = CAMVID / "int8.tflite"


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "scene.png"
    Image.fromarray(draw_scene(1)[0]).save(path)
    return path


@pytest.fixture(scope="module")
def saved(photo):
    return phone_result(INT8, photo)


def written(values, folder):
    path = folder / "result.json"
    path.write_text(json.dumps(values))
    return path


def test_masks_are_compared_on_the_phones_pixels(saved, tmp_path):
    cpu, gpu = compare_with_file(read_phone_result(written(saved, tmp_path)), INT8)
    assert cpu.comparison.agreement == 1
    assert cpu.comparison.passed
    assert cpu.run.latency_ms == (41.5, 44.0, 20)
    assert gpu.run.accelerator == "gpu, jspi build, in part on the CPU"
    assert not gpu.comparison.passed


def test_command_with_the_model_and_with_a_pair(saved, photo, tmp_path):
    path = written(saved, tmp_path)
    write_golden(GoldenOptions(INT8, photo, output_dir=tmp_path / "golden"))
    for flag in (f"--model={INT8}", f"--output_dir={tmp_path / 'golden'}"):
        done = run_command("tflite_tools.golden", flag, f"--check={path}", timeout=120)
        first, second = done.stdout.splitlines()
        assert first.startswith(
            "passed: int8.tflite on a phone (cpu, jspi build, 1 thread): 100.0000% of the pixels"
        )
        assert first.endswith("median 41.5 ms, p90 44.0 ms of 20 runs")
        assert second.startswith("FAILED: int8.tflite on a phone (gpu")
        assert done.returncode == 1


def test_pair_of_another_photo(saved, tmp_path):
    path = tmp_path / "other.png"
    Image.fromarray(draw_scene(2)[0]).save(path)
    write_golden(GoldenOptions(INT8, path, output_dir=tmp_path))
    result = read_phone_result(written(saved, tmp_path))
    with pytest.raises(ValueError, match=r"ran scene\.png, the pair is of another photo; give"):
        compare_with_pair(result, tmp_path)


def test_result_of_another_file(saved, tmp_path):
    result = read_phone_result(written(saved, tmp_path))
    with pytest.raises(ValueError, match="the phone ran other files: expected sha256"):
        compare_with_file(result, CAMVID / "qat_int8.tflite")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values.update(kind="golden"), "expected phone_result of format 1"),
        (lambda values: values.pop("models"), "KeyError: 'models'"),
        (lambda values: values["models"][0].update(height=10**6), "no usable size"),
        (lambda values: values["models"][0].update(pixels="%%"), "not a result that a phone page"),
        (lambda values: values["models"][0].update(pixels=packed(np.zeros(5))), "expected 529920"),
        (
            lambda values: values["models"][0]["runs"][0].update(
                mask=packed(np.zeros(10**7, np.uint8))
            ),
            "expected 176640 bytes",
        ),
    ],
)
def test_damaged_results(saved, tmp_path, change, message):
    values = json.loads(json.dumps(saved))
    change(values)
    with pytest.raises(ValueError, match=message):
        read_phone_result(written(values, tmp_path))

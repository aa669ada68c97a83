"""The golden pair: bytes that fit the tensors, and a tolerance that finds planted faults."""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene
from tests.children import run_command
from tests.paths import CAMVID
from tflite_tools.contract import read_contract
from tflite_tools.deployment.golden import GoldenOptions, compare, write_golden
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool

# Not through tests.zoo: the children import this module, and that one loads TensorFlow.
INT8 = CAMVID / "int8.tflite"
SHAPE = (1, 368, 480, 3)


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    """A folder with the pair of a drawn scene."""
    folder = tmp_path_factory.mktemp("golden")
    photo = folder / "scene.png"
    Image.fromarray(draw_scene(1)[0]).save(photo)
    write_golden(GoldenOptions(INT8, photo, output_dir=folder))
    return folder


def raw_output(runner, pixels):
    """Of a device that feeds these bytes; runs in a child."""
    runner.set_image(pixels)
    runner.invoke()
    return runner.output()


def devices(inputs, folder):
    """Files with the raw outputs for some inputs."""
    with InterpreterPool([read_contract(INT8)], 1) as pool:
        tasks = [
            Task(0, raw_output, arguments=(np.ascontiguousarray(pixels),)) for pixels in inputs
        ]
        outcomes = list(pool.run(tasks))
    paths = [folder / f"device{number}.bin" for number in range(len(outcomes))]
    for path, outcome in zip(paths, outcomes, strict=True):
        assert not outcome.failure
        path.write_bytes(outcome.value.tobytes())
    return paths


def fed(golden):
    return np.fromfile(golden / "input.bin", np.uint8).reshape(SHAPE)[0]


def test_files_are_what_the_description_says(golden):
    description = json.loads((golden / "golden.json").read_text())
    for side, shape in (("input", list(SHAPE)), ("output", [1, 368, 480, 11])):
        tensor = description[side]
        content = (golden / tensor["file"]).read_bytes()
        assert tensor["shape"] == shape
        assert tensor["dtype"] == "uint8"
        assert len(content) == np.prod(shape)
        assert hashlib.sha256(content).hexdigest() == tensor["sha256"]
    assert description["model"]["sha256"] == hashlib.sha256(INT8.read_bytes()).hexdigest()
    assert 0.9 <= description["tolerance"]["min_class_agreement"] <= 0.995


def test_the_same_kernels_give_the_same_bytes(golden, tmp_path):
    [output] = devices([fed(golden)], tmp_path)
    result = compare(golden, output)
    assert result.agreement == 1
    assert result.largest_difference == 0
    assert result.passed


def test_faults_of_a_device_are_found(shared_dir, tmp_path):
    """On a real photo: of a drawn one, little depends on the colours."""
    folder = shared_dir / "data" / "camvid"
    photo = folder / (folder / "val.txt").read_text().split()[0]
    write_golden(GoldenOptions(INT8, photo, output_dir=tmp_path))
    pixels = fed(tmp_path)
    faults = {
        "blue first": pixels[..., ::-1],
        "bytes taken for int8": pixels ^ 128,
        "scaled to 0..1": pixels // 255,
        "upside down": pixels[::-1],
        "one row further down": np.roll(pixels, 1, axis=0),
    }
    outputs = devices(faults.values(), tmp_path)
    results = [compare(tmp_path, output) for output in outputs]
    passed = [name for name, result in zip(faults, results, strict=True) if result.passed]
    assert passed == []


def test_one_score_is_compared_by_its_threshold(golden, tmp_path):
    """An argmax over one channel is 0 everywhere: every device would pass."""
    description = json.loads((golden / "golden.json").read_text())
    assert description["threshold"] is None
    output = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 8, 8, 1)
    (tmp_path / "input.bin").write_bytes((golden / "input.bin").read_bytes())
    (tmp_path / "output.bin").write_bytes(output.tobytes())
    description["output"] |= {
        "dtype": "float32",
        "shape": [1, 8, 8, 1],
        "sha256": hashlib.sha256(output.tobytes()).hexdigest(),
    }
    description["threshold"] = 0.0
    (tmp_path / "golden.json").write_text(json.dumps(description))
    (tmp_path / "device.bin").write_bytes((output + 0.5).tobytes())
    assert compare(tmp_path, tmp_path / "output.bin").passed
    assert compare(tmp_path, tmp_path / "device.bin").agreement == 0.75


def test_output_of_another_size(golden, tmp_path):
    path = tmp_path / "cut.bin"
    path.write_bytes((golden / "output.bin").read_bytes()[:-1])
    with pytest.raises(ValueError, match=r"bytes \(uint8 \[1, 368, 480, 11\]\), got 1943039"):
        compare(golden, path)


@pytest.mark.parametrize("damaged", ["input.bin", "output.bin"])
def test_changed_pair_is_noticed(golden, tmp_path, damaged):
    for name in ("golden.json", "input.bin", "output.bin"):
        (tmp_path / name).write_bytes((golden / name).read_bytes())
    changed = bytearray((golden / damaged).read_bytes())
    changed[1000] ^= 1
    (tmp_path / damaged).write_bytes(changed)
    with pytest.raises(ValueError, match=rf"{damaged}: not the file of golden\.json"):
        compare(tmp_path, golden / "output.bin")


@pytest.mark.parametrize("key", ["output", "tolerance", "output_is_class_map"])
def test_description_without_a_part(golden, tmp_path, key):
    description = json.loads((golden / "golden.json").read_text())
    del description[key]
    (tmp_path / "golden.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match=r"golden\.json: not a golden pair"):
        compare(tmp_path, golden / "output.bin")


def test_pair_of_another_file(golden, tmp_path):
    other = tmp_path / "other.tflite"
    other.write_bytes(INT8.read_bytes() + b" ")
    assert compare(golden, golden / "output.bin", model=INT8).passed
    with pytest.raises(ValueError, match=r"expected the sha256 of int8\.tflite, got another"):
        compare(golden, golden / "output.bin", model=other)
    with pytest.raises(FileNotFoundError, match=r"device\.bin: no such file; check --check"):
        compare(golden, tmp_path / "device.bin")


def test_existing_pair_is_kept(golden):
    with pytest.raises(FileExistsError, match=r"input\.bin exists; give --overwrite"):
        GoldenOptions(INT8, golden / "scene.png", output_dir=golden)


def test_command(golden, tmp_path):
    def command(*flags):
        return run_command("tflite_tools.golden", *flags, timeout=120)

    check = f"--check={golden / 'output.bin'}"
    good = command(f"--output_dir={golden}", check)
    assert good.returncode == 0
    assert good.stdout.startswith("passed: 100.0000% of the pixels")
    zeros = tmp_path / "zeros.bin"
    zeros.write_bytes(bytes(368 * 480 * 11))
    bad = command(f"--output_dir={golden}", f"--check={zeros}")
    assert bad.returncode == 1
    assert bad.stdout.startswith("FAILED: ")
    missing = command(f"--output_dir={tmp_path}", check)
    assert missing.returncode == 1
    assert missing.stderr.count("\n") == 1
    assert "golden.json: no such file" in missing.stderr


def test_a_turned_photo_is_noted(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(draw_scene(1)[0]).save(tmp_path / "phone.png", exif=exif)
    flags = (f"--photo={tmp_path / 'phone.png'}", f"--output_dir={tmp_path / 'pair'}")
    done = run_command("tflite_tools.golden", f"--model={INT8}", *flags)
    assert "has EXIF orientation 6, which is not applied" in done.stdout
    description = json.loads((tmp_path / "pair" / "golden.json").read_text())
    assert description["photo_exif_orientation"] == 6

"""Mistakes on the command line: one line each, before an environment is made or code is run."""

import pytest

from deeplab_tf.data.preprocessing import Preprocessing
from export.frameworks.request import NORMALIZATIONS, Framework, framework_of, normalization
from export.from_framework import NORMALIZATION_NAMES
from tests.children import run_command


@pytest.fixture
def files(tmp_path):
    """Files of every kind, without content; a Python file that shows whether it ran."""
    for name in ("net.onnx", "net.pt2", "net.pt", "net.h5", "net.keras", "net.txt", "w.pth"):
        (tmp_path / name).write_bytes(b"not a network")
    (tmp_path / "net.py").write_text(f"open({str(tmp_path / 'it_ran')!r}, 'w')\n")
    (tmp_path / "empty").mkdir()
    return tmp_path


def refusal(files, *flags):
    done = run_command(
        "export.from_framework",
        f"--output_dir={files / 'out'}",
        f"--environments={files / 'environments'}",
        *flags,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout == ""
    assert not (files / "out").exists()
    assert not (files / "environments").exists()
    assert not (files / "it_ran").exists()
    (line,) = done.stderr.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("source", "flags", "words"),
    [
        ("missing.onnx", [], "no such file; give the network as --source"),
        ("net.txt", [], "expected .pt2, .py, .onnx, .keras, .tflite or a SavedModel folder"),
        ("net.pt", [], "a pickle, which runs code when it is loaded"),
        ("net.h5", [], "give it to export.to_tflite as --keras_file"),
        ("empty", [], "got no saved_model.pb in it"),
        ("net.pt2", [], "if it is yours, give --trust_source"),
        ("net.py", ["--size=8,8"], "give --module=NAME"),
        ("net.py", ["--module=build"], "has no size of its own; give --size"),
        ("net.py", ["--module=build", "--size=8"], "--size: expected height,width, got 8"),
        ("net.py", ["--module=build", "--size=8,8", "--weights=no.pt"], "no.pt: no such file"),
        ("net.onnx", ["--module=build"], "--module and --weights belong to a Python file"),
        ("net.onnx", ["--packages=timm"], "--packages belongs to PyTorch"),
        ("net.onnx", ["--signature=serve"], "--signature belongs to a SavedModel"),
        ("net.onnx", ["--mean=0"], "--mean and --std belong together"),
        ("net.onnx", ["--mean=0.485,0.456,0.406", "--std=0.229,0.224,0.225"], "123.675,116.28"),
        ("net.onnx", ["--normalization=imagenet", "--mean=0", "--std=1"], "exclude each other"),
        ("net.onnx", ["--mean=a", "--std=1"], "--mean: expected numbers, got a"),
        ("net.onnx", ["--labels=no.txt"], "no.txt: no such file"),
        ("net.keras", ["--normalization=none"], "net.keras: a damaged archive"),
    ],
)
def test_mistakes_are_one_line(files, source, flags, words):
    assert words in refusal(files, f"--source={files / source}", *flags)


def test_an_earlier_conversion_is_not_replaced(files):
    (files / "out").mkdir()
    (files / "out" / "float32.tflite").write_bytes(b"mine")
    done = run_command(
        "export.from_framework", f"--output_dir={files / 'out'}", f"--source={files / 'net.onnx'}"
    )
    assert done.returncode == 1
    assert "give --overwrite" in done.stderr
    assert (files / "out" / "float32.tflite").read_bytes() == b"mine"


def test_the_flag_lists_every_normalization():
    assert list(NORMALIZATION_NAMES) == list(NORMALIZATIONS)


def test_a_saved_model_is_known_by_its_content(tmp_path):
    (tmp_path / "saved_model.pb").touch()
    assert framework_of(tmp_path) is Framework.KERAS


@pytest.mark.parametrize(
    ("mean", "std", "expected"),
    [
        ((), (), None),
        ((128,), (64,), Preprocessing((128,) * 3, (64,) * 3)),
        ((1, 2, 3), (4,), Preprocessing((1, 2, 3), (4, 4, 4))),
        ((1, 2, 3, 4), (5, 6, 7, 8), Preprocessing((1, 2, 3, 4), (5, 6, 7, 8))),
        ((0,), (1,), NORMALIZATIONS["none"]),
    ],
)
def test_numbers_for_all_channels_or_for_each(mean, std, expected):
    assert normalization("", mean, std=std) == expected

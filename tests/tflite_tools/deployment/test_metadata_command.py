"""The command that adds metadata: what it writes, and what it refuses in one line."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from deeplab_tf.data.label_list import read_label_list
from deeplab_tf.data.preprocessing import Preprocessing
from tests.children import run_command
from tests.paths import CAMVID, ZOO
from tests.tflite_tools.surgery import twin_bytes
from tflite_tools.contract import class_count, read_contract
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata
from tflite_tools.deployment.metadata_description import check_labels, describe
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.manifest import read_manifest, sha256_of
from tflite_tools.metadata import packing

NAMES = tuple(json.loads((CAMVID / "labels.json").read_text())["names"])
ZERO_TO_ONE = Preprocessing((0.0,) * 3, (255.0,) * 3)
CLASS_MAP = ZOO / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"


@pytest.fixture
def bare(tmp_path):
    """A file without a manifest."""
    return pathlib.Path(shutil.copy(CAMVID / "int8.tflite", tmp_path / "theirs.tflite"))


@pytest.fixture
def floating(tmp_path):
    """A float file without a manifest: nothing in it says how pixels are normalized."""
    path = tmp_path / "floating.tflite"
    path.write_bytes(twin_bytes())
    return path


def label_file(folder, names):
    path = folder / "names.txt"
    path.write_text("\n".join(names) + "\n\n")
    return path


def command(*flags):
    return run_command("tflite_tools.add_metadata", *map(str, flags), timeout=120)


def test_command_writes_file_and_manifest(tmp_path):
    output = tmp_path / "ready.tflite"
    done = command(f"--model={CAMVID / 'int8.tflite'}", f"--output={output}", "--name=Streets")
    assert done.returncode == 0, done.stderr
    assert "11 labels (sky, building, pole," in done.stdout
    assert "ready.tflite: mediapipe: accepted as it is" in done.stdout
    assert packing.read(output).name == "Streets"
    manifest = read_manifest(output)  # raises if the sha256 is another file's
    assert manifest.sha256 == sha256_of(output.read_bytes())
    assert manifest.size_bytes == output.stat().st_size
    assert manifest.label_set == read_manifest(CAMVID / "int8.tflite").label_set
    assert manifest.calibration == read_manifest(CAMVID / "int8.tflite").calibration


def test_file_without_manifest_gets_one(bare, tmp_path):
    output = tmp_path / "ready.tflite"
    add_metadata(AddOptions(bare, output, labels=label_file(tmp_path, NAMES)))
    assert packing.read(output).labels == NAMES
    manifest = read_manifest(output)
    assert manifest.head == "logits"
    assert manifest.label_set.names == NAMES
    assert manifest.input_quantization == (1 / 128, 128)
    # What the scale and zero point of its bytes stand for.
    assert packing.read(output).preprocessing == manifest.preprocessing == Preprocessing()
    assert read_contract(output).label_set.names == NAMES


def test_normalization_of_a_float_file_is_not_guessed(floating, tmp_path):
    labels = label_file(tmp_path, NAMES)
    done = command(f"--model={floating}", f"--labels={labels}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "the normalization of its float32 input is not on record; give --mean and" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["floating.tflite", "names.txt"]


def test_normalization_by_flags_is_written_and_then_kept(floating, tmp_path):
    output, again = tmp_path / "ready.tflite", tmp_path / "again.tflite"
    labels = label_file(tmp_path, NAMES)
    flags = (f"--labels={labels}", "--mean=0,0,0", "--std=255,255,255", f"--output={output}")
    done = command(f"--model={floating}", *flags)
    assert done.returncode == 0, done.stderr
    said = packing.read(output)
    assert (said.preprocessing, said.input_range) == (ZERO_TO_ONE, ((0.0,) * 3, (1.0,) * 3))
    assert read_manifest(output).preprocessing == ZERO_TO_ONE
    output.with_suffix(".json").unlink()
    # Another name, and labels and normalization from the file itself.
    add_metadata(AddOptions(output, again, name="Streets"))
    assert packing.read(again) == dataclasses.replace(said, name="Streets")
    assert read_manifest(again).preprocessing == ZERO_TO_ONE
    assert read_manifest(again).label_set.names == NAMES


def test_normalization_by_flags_goes_before_the_manifest(tmp_path):
    output = tmp_path / "ready.tflite"
    add_metadata(AddOptions(CAMVID / "int8.tflite", output, preprocessing=ZERO_TO_ONE))
    assert packing.read(output).preprocessing == ZERO_TO_ONE
    assert read_contract(output).preprocessing == ZERO_TO_ONE


def test_what_does_not_fit_together_is_said(tmp_path):
    output = tmp_path / "ready.tflite"
    flags = ("--mean=0,0,0", "--std=255,255,255", f"--output={output}")
    done = command(f"--model={CAMVID / 'int8.tflite'}", *flags)
    assert "input scale 0.0078125 and zero point 128 cover [-1, 0.992]" in done.stderr


def test_command_refuses_in_one_line(bare, tmp_path):
    done = command(f"--model={bare}")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "neither its manifest nor its metadata have labels; give --labels" in done.stderr
    assert not (tmp_path / "theirs_metadata.tflite").exists()


def test_wrong_count_leaves_nothing_behind(bare, tmp_path):
    output = tmp_path / "ready.tflite"
    labels = label_file(tmp_path, NAMES[1:])  # the commonest slip: background left out
    with pytest.raises(ValueError, match=r"expected 11 labels .classes of the output., got 10"):
        add_metadata(AddOptions(bare, output, labels=labels))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["names.txt", "theirs.tflite"]


def test_classes_of_a_class_map_are_counted_too():
    graph, contract = read_graph(CLASS_MAP), read_contract(CLASS_MAP)
    assert contract.num_classes is None
    assert class_count(graph, contract.num_classes) == 21
    with pytest.raises(ValueError, match=r"expected 21 labels .classes of the output., got 20"):
        describe(contract, contract.label_set.names[1:], graph=graph)


def test_existing_files_are_kept(bare, tmp_path):
    labels = label_file(tmp_path, NAMES)
    with pytest.raises(FileExistsError, match=r"theirs\.tflite exists; give --overwrite"):
        AddOptions(bare, bare, labels=labels)
    output = tmp_path / "ready.tflite"
    output.with_suffix(".json").write_text("somebody's notes")
    with pytest.raises(FileExistsError, match=r"ready\.json exists"):
        AddOptions(bare, output, labels=labels)


def test_overwrite_in_place(bare, tmp_path):
    labels = label_file(tmp_path, NAMES)
    add_metadata(AddOptions(bare, bare, labels=labels, overwrite=True))
    once = bare.read_bytes()
    assert packing.read(bare).labels == NAMES
    add_metadata(AddOptions(bare, bare, overwrite=True))  # now from its own manifest
    assert bare.read_bytes() == once


def test_labels_are_read_as_people_write_them(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes("\ufeffsky\r\nvélo \r\n\r\n".encode())
    assert read_label_list(path) == ("sky", "vélo")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (("sky", "", "road"), "label 2: expected one line of text, got ''"),
        (("sky", "road", "sky"), "label 3, 'sky', occurs twice"),
        (("sky", "a\nb"), "label 2: expected one line of text, got 'a"),
    ],
)
def test_bad_labels(labels, message):
    with pytest.raises(ValueError, match=message):
        check_labels(labels, None, name="labels.txt")


def test_label_file_that_is_no_text(tmp_path):
    path = tmp_path / "labels.txt"
    path.write_bytes(b"\xff\xfe\x00s")
    with pytest.raises(ValueError, match="not UTF-8 text"):
        read_label_list(path)

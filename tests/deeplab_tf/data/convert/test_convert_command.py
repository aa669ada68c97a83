"""The command, and a training on what it wrote."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.dataset import one_class_fault
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.readers import folder
from deeplab_tf.data.readers.synthetic import LABEL_SET, draw_scene
from tests.children import run_command
from tests.deeplab_tf.data.convert import written
from tests.small_network import write_small_run


def run(module, *flags):
    return run_command(module, *flags, environment={"CUDA_VISIBLE_DEVICES": ""}, timeout=500)


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """Six drawn scenes as COCO, converted by the command; (folder, what it printed)."""
    root = tmp_path_factory.mktemp("converted")
    scenes = [written.Scene(f"s{seed}", *draw_scene(seed)) for seed in range(6)]
    written.write_coco(scenes, LABEL_SET.names, root / "coco")
    done = run(
        "deeplab_tf.data.convert",
        "--from=coco",
        f"--input={root / 'coco'}",
        f"--output={root / 'photos'}",
    )
    assert done.returncode == 0, done.stderr
    return root / "photos", done.stdout


def test_command_says_what_it_did_and_what_is_next(converted):
    target, output = converted
    lines = output.splitlines()
    assert lines[0].split() == ["id", "class", "colour", "pixels", "share", "photos"]
    assert lines[2].split()[:2] == ["1", "sky"]
    assert {"train: 5 photos", "val: 1 photos"} <= set(lines)
    assert lines[-1] == (
        f"next: python -m deeplab_tf.data.check --dataset=folder --data_dir={target}"
    )
    done = run(*lines[-1].partition("python -m ")[2].split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("faults: 0") == 2


def test_masks_show_their_classes_in_any_viewer(converted):
    mask = Image.open(converted[0] / "labels/s0.png")
    label_set = folder.read_classes(converted[0] / "classes.txt")
    np.testing.assert_array_equal(
        np.asarray(mask.convert("RGB")), label_set.colorize(np.asarray(mask))
    )


@pytest.mark.slow
def test_two_steps_of_training_on_converted_labels(converted, tmp_path):
    target, _ = converted
    label_set = folder.read_classes(target / "classes.txt")
    small = write_small_run(tmp_path / "small", label_set=label_set)
    done = run(
        "deeplab_tf.train",
        "--dataset=folder",
        f"--data_dir={target}",
        f"--run_dir={tmp_path / 'run'}",
        f"--init_from={small}",
        "--batch_size=2",
        "--train_steps=2",
        "--quantize_delay_step=1",
        "--quantize_calibration_images=4",
    )
    assert done.returncode == 0, done.stderr[-3000:]
    history = [
        json.loads(one) for one in (tmp_path / "run/history.jsonl").read_text().split("\n")[:-1]
    ]
    assert [line["phase"] for line in history] == ["float", "quantized"]
    assert set(history[-1]["iou"]) == set(label_set.names)


def test_a_training_list_of_one_class_stops(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(4):
        photo = np.random.default_rng(number).integers(0, 256, (32, 48, 3), np.uint8)
        mask = np.where(photo[:, :, 0] > 99, 255, 0).astype(np.uint8)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{number}.png")
        Image.fromarray(mask).save(tmp_path / "photos" / f"{number}_mask.png")
    (tmp_path / "photos/classes.txt").write_text("nothing\nroad\n")
    small = write_small_run(tmp_path / "small", label_set=LabelSet.from_names(("nothing", "road")))
    done = run(
        "deeplab_tf.train",
        "--dataset=folder",
        f"--data_dir={tmp_path / 'photos'}",
        f"--run_dir={tmp_path / 'run'}",
        f"--init_from={small}",
        "--batch_size=2",
        "--train_steps=2",
    )
    assert done.returncode == 1
    assert "every labelled pixel is 'nothing'" in done.stderr
    assert "deeplab_tf.data.check" in done.stderr
    assert "a network of one class learns nothing" in done.stderr
    assert not (tmp_path / "run/history.jsonl").exists()


def test_reading_ends_at_the_second_class(memory_dataset):
    labels = [np.full((2, 2), 1, np.uint8), np.array([[0, 1]], np.uint8)] * 50
    source = memory_dataset([None] * 100, labels)
    calls = []
    read = source.label
    source.label = lambda index: calls.append(index) or read(index)
    assert one_class_fault(source) == ""
    assert len(calls) < 20
    source = memory_dataset([None] * 3, [np.full((2, 2), 255, np.uint8)] * 3)
    assert "is missing: all pixels are ignored (255)" in one_class_fault(source)


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ([], 2, "--input"),
        (["--input=/nowhere", "--output=x"], 1, "/nowhere: no such file or folder"),
        (["--from=paper", "--input=a", "--output=b"], 2, "--help lists the flags"),
    ],
)
def test_command_complains_in_one_line(flags, status, message):
    done = run("deeplab_tf.data.convert", *flags)
    assert done.returncode == status
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""

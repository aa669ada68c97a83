"""Sharded evaluation counts what the local one counts, bit for bit; needs the extra `beam`."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.registry import open_dataset
from tests.children import run_command
from tests.paths import CAMVID, ROOT
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.flatbuffer.graph import parse_model
from tflite_tools.flatbuffer.pack import pack

pytest.importorskip("apache_beam", reason="the extra `beam` (Apache Beam) is not installed")

from tflite_tools.evaluation import sharded
from tflite_tools.evaluation.sharded import (
    FileSource,
    ListSource,
    ShardScore,
    evaluate_sharded,
    shard_ranges,
)

# Beam's own modules, not ours
pytestmark = pytest.mark.filterwarnings("default")

IMAGES = 5


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five drawn scenes as somebody's own folder, with CamVid's eleven classes."""
    root = tmp_path_factory.mktemp("own")
    source = open_dataset("synthetic", None, split="val")
    for kind in ("images", "labels"):
        (root / kind).mkdir()
    for index in range(IMAGES):
        image, label = source.read(index)
        Image.fromarray(image).save(root / "images" / f"{index}.png")
        Image.fromarray(label).save(root / "labels" / f"{index}.png")
    names = json.loads((CAMVID / "labels.json").read_text())["names"]
    (root / "classes.txt").write_text("\n".join(names))
    (root / "val.txt").write_text("\n".join(map(str, range(IMAGES))))
    return root


@pytest.fixture(scope="module")
def contracts():
    return [read_contract(CAMVID / name) for name in ("int8.tflite", "qat_int8.tflite")]


@pytest.fixture(scope="module")
def local(folder, contracts):
    options = EvaluationOptions(processes=1, latency_repeats=0)
    return evaluate(contracts, open_dataset("folder", folder, split="val"), options=options)


def source(folder):
    return ListSource("folder", str(folder), split="val")


@pytest.mark.parametrize("shards", [1, 3, 8])
def test_matrices_equal_the_local_ones_bit_for_bit(folder, contracts, local, shards):
    results = evaluate_sharded(contracts, source(folder), shards=shards, limit=0)
    for mine, theirs in zip(results, local, strict=True):
        assert mine.failure == ""
        assert mine.images == theirs.images == IMAGES
        assert mine.matrix.dtype == theirs.matrix.dtype
        np.testing.assert_array_equal(mine.matrix, theirs.matrix)
        assert mine.constant_images == theirs.constant_images
        assert mine.warnings == theirs.warnings
    assert not np.array_equal(results[0].matrix, results[1].matrix)  # files are not mixed up


def test_ranges_cover_every_sample_once():
    for count in (1, 5, 101):
        for shards in (1, 2, 7, 200):
            ranges = shard_ranges(count, shards)
            assert [i for start, stop in ranges for i in range(start, stop)] == list(range(count))
            sizes = [stop - start for start, stop in ranges]
            assert max(sizes) - min(sizes) <= 1
            assert len(ranges) == min(shards, count)
    with pytest.raises(ValueError, match="shards must be at least 1; got 0"):
        shard_ranges(5, 0)


def test_scores_survive_text_and_add_up():
    big = np.full((1, 2, 3), 2**53 + 1, np.int64)  # not a float's integer any more
    score = ShardScore(2, big, constant_images=(1,), failures=("",))
    back = ShardScore.from_json(score.to_json())
    np.testing.assert_array_equal(back.matrices, big)
    total = back + ShardScore(3, big, constant_images=(0,), failures=("gone",))
    assert (total.images, total.constant_images, total.failures) == (5, (1,), ("gone",))
    np.testing.assert_array_equal(total.matrices, 2 * big)


def test_lost_samples_are_called_out(folder, contracts, monkeypatch):
    ranges = shard_ranges(IMAGES, 3)
    monkeypatch.setattr(sharded, "shard_ranges", lambda count, shards: ranges[:-1])
    with pytest.raises(RuntimeError, match=f"scored 3 of {IMAGES} samples"):
        evaluate_sharded(contracts[:1], source(folder), shards=3, limit=0)


def test_another_file_on_a_worker_is_refused(folder, contracts, monkeypatch):
    true = FileSource.of(contracts[0])
    other = dataclasses.replace(true, sha256="0" * 64)
    monkeypatch.setattr(FileSource, "of", lambda contract: other)
    with pytest.raises(RuntimeError, match="give every worker the same file") as caught:
        evaluate_sharded(contracts[:1], source(folder), shards=2, limit=0)
    assert "\n" not in str(caught.value)


def test_a_damaged_photo_is_named_in_one_line(folder, contracts, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    (broken / "images" / "3.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"3\.png") as caught:
        evaluate_sharded(contracts[:1], source(broken), shards=2, limit=0)
    assert "\n" not in str(caught.value)
    # the damage lies behind the limit
    assert evaluate_sharded(contracts[:1], source(broken), shards=2, limit=3)[0].images == 3


def test_a_file_that_fails_costs_no_other_file(folder, contracts, local, tmp_path):
    model = parse_model(contracts[0].path.read_bytes(), "int8")
    model.operatorCodes[1].version = 99  # reads well, refused by the runtime
    (tmp_path / "refused.tflite").write_bytes(pack(model, 1 << 20))
    files = [read_contract(tmp_path / "refused.tflite"), contracts[1]]
    bad, good = evaluate_sharded(files, source(folder), shards=2, limit=0)
    assert bad.failure
    assert bad.matrix is None
    np.testing.assert_array_equal(good.matrix, local[1].matrix)


def test_a_file_of_other_classes_is_not_run(contracts):
    drawn = ListSource("synthetic", "", split="val")
    classes = drawn.open().label_set.num_classes
    assert classes != 11
    (bad,) = evaluate_sharded(contracts[:1], drawn, shards=2, limit=2)
    assert f"expected {classes} classes (synthetic), got 11" in bad.failure
    # a file with a class map has no number of classes to compare
    voc = read_contract(ROOT / "zoo" / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite")
    bad, good = evaluate_sharded([contracts[0], voc], drawn, shards=2, limit=2)
    assert bad.failure
    assert (bad.matrix, good.failure, good.images) == (None, "", 2)
    assert good.matrix.sum() > 0


def test_command_writes_the_local_numbers(folder, local, tmp_path):
    done = run_command(
        "tflite_tools.evaluate_sharded",
        f"--model={CAMVID / 'int8.tflite'},{CAMVID / 'qat_int8.tflite'}",
        "--dataset=folder",
        f"--data_dir={folder}",
        "--shards=2",
        f"--output_dir={tmp_path}",
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    models = json.loads((tmp_path / "metrics.json").read_text())["models"]
    for model, result in zip(models, local, strict=True):
        assert model["confusion_matrix"] == result.matrix.tolist()


def test_a_worker_without_the_manifest_resizes_as_the_others(tmp_path):
    path = tmp_path / "int8.tflite"
    path.write_bytes((CAMVID / "int8.tflite").read_bytes())
    contract = read_contract(path, alignment=Alignment.ALIGN_CORNERS)
    assert FileSource.of(contract).contract().alignment is Alignment.ALIGN_CORNERS

"""Photos larger than the input, cut in tiles and stitched: against crops that are run by hand."""

import json

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.registry import open_dataset
from tests.children import run_command
from tests.paths import CAMVID, ROOT
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, evaluate
from tflite_tools.evaluation.tiled import task_timeout_s
from tflite_tools.runtime.runner import ModelRunner

INT8 = CAMVID / "int8.tflite"
CLASS_MAP = ROOT / "zoo" / "voc_animals_deeplab_mobilenet_v2" / "int8.tflite"
HEIGHT, WIDTH = 368, 480


@pytest.fixture(scope="module")
def camvid(shared_dir):
    return open_dataset("camvid", shared_dir / "data/camvid", split="val")


@pytest.fixture(scope="module")
def runner():
    return ModelRunner(read_contract(INT8))


def enlarged(dataset, index):
    """A real photo at twice its size, 720x960."""
    return np.asarray(Image.fromarray(dataset.image(index)).resize((960, 720), Image.BILINEAR))


def joined(dataset, first):
    """Four real photos with their masks, 2x2, 720x960."""
    pairs = [dataset.read(first + 10 * number) for number in range(4)]
    return tuple(
        np.vstack([np.hstack(parts[:2]), np.hstack(parts[2:])])
        for parts in zip(*pairs, strict=True)
    )


@pytest.fixture(scope="module")
def own_folder(camvid, tmp_path_factory):
    """Two photos larger than the input, two that are not, as somebody's own data set."""
    folder = tmp_path_factory.mktemp("big")
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    small = camvid.read(5)
    pairs = [joined(camvid, 0), small, joined(camvid, 50), [part[:200, :300] for part in small]]
    for number, (image, label) in enumerate(pairs):
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(label).save(folder / "labels" / f"{number}.png")
    (folder / "classes.txt").write_text("\n".join(camvid.label_set.names))
    (folder / "val.txt").write_text("0\n1\n2\n3\n")
    return folder


def options(tile_overlap, **changes):
    defaults = {"processes": 2, "latency_repeats": 0, "tile_overlap": tile_overlap}
    return EvaluationOptions(**(defaults | changes))


def command(*flags):
    done = run_command("tflite_tools.evaluate", *flags, timeout=300)
    return done.returncode, done.stdout, done.stderr


def test_parts_are_those_of_crops_run_by_hand(camvid, runner):
    """720x960 with 64 shared: 3x3 tiles from rows 0, 176, 352 and columns 0, 240, 480.

    Midway between the centres lie rows 272 and 448 and columns 360 and 600.
    """
    photo, _ = joined(camvid, 0)
    found, invokes = runner.full_size_class_map(photo, 64)
    assert (found.shape, found.dtype, invokes) == ((720, 960), np.uint8, 9)
    for top, rows in ((0, slice(0, 272)), (176, slice(272, 448)), (352, slice(448, 720))):
        for left, columns in ((0, slice(0, 360)), (240, slice(360, 600)), (480, slice(600, 960))):
            crop = runner.class_map(photo[top : top + HEIGHT, left : left + WIDTH])
            mine = crop[
                rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
            np.testing.assert_array_equal(found[rows, columns], mine)


def test_tiles_of_four_joined_photos_find_what_the_photos_alone_have(camvid, runner):
    """Without scaling the network sees each photo as large as ever; scaled down it sees less.

    Photos of 360 rows and tiles of 368 cannot agree everywhere: the tile sees 8 rows of a
    neighbour where the photo alone is padded.
    """
    photo, _ = joined(camvid, 0)
    alone = [place(camvid.image(10 * number), (HEIGHT, WIDTH))[0] for number in range(4)]
    maps = [runner.class_map(canvas)[:360] for canvas in alone]
    expected = np.vstack([np.hstack(maps[:2]), np.hstack(maps[2:])])
    tiled, invokes = runner.full_size_class_map(photo, 0)
    scaled, _ = runner.full_size_class_map(photo, -1)
    assert invokes == 4
    assert (tiled == expected).mean() > 0.97
    assert (scaled == expected).mean() < 0.95


def dense_reference(photo, runner):
    """The class of each pixel from that one of 45 crops in which it lies farthest inside."""
    best = np.full(photo.shape[:2], -1.0)
    reference = np.zeros(photo.shape[:2], np.uint8)
    rows, columns = np.arange(HEIGHT), np.arange(WIDTH)
    for top in range(0, 720 - HEIGHT + 1, 88):
        for left in range(0, 960 - WIDTH + 1, 60):
            above = rows if top else np.full(HEIGHT, np.inf)
            below = HEIGHT - 1 - rows if top + HEIGHT < 720 else np.full(HEIGHT, np.inf)
            before = columns if left else np.full(WIDTH, np.inf)
            after = WIDTH - 1 - columns if left + WIDTH < 960 else np.full(WIDTH, np.inf)
            inside = np.minimum(np.minimum(above, below)[:, None], np.minimum(before, after))
            place_of = np.s_[top : top + HEIGHT, left : left + WIDTH]
            deeper = inside > best[place_of]
            best[place_of][deeper] = inside[deeper]
            reference[place_of][deeper] = runner.class_map(photo[place_of])[deeper]
    return reference


@pytest.mark.parametrize("index", [20, 40])
def test_overlap_takes_seams_away(camvid, runner, index):
    """Measured on 5 photos: 2.2 to 3.3 % of the pixels differ without overlap, 0.7 to 1.1 with."""
    photo = enlarged(camvid, index)
    reference = dense_reference(photo, runner)
    differ = {
        overlap: (runner.full_size_class_map(photo, overlap)[0] != reference).mean()
        for overlap in (0, 64)
    }
    assert 0 < differ[64] < 0.015
    assert differ[0] > 2 * differ[64]


def test_scores_are_those_of_the_stitched_masks(own_folder, runner):
    dataset = open_dataset("folder", own_folder, split="val")
    contracts = [read_contract(INT8), read_contract(CAMVID / "qat_int8.tflite")]
    first, second = evaluate(contracts, dataset, options=options(64, keep_images=True), reference=0)
    other = ModelRunner(contracts[1])
    matrix = np.zeros((11, 12), int)
    same = total = 0
    for index in range(len(dataset)):
        image, label = dataset.read(index)
        found, _ = runner.full_size_class_map(image, 64)
        of_photo = np.zeros((11, 12), int)
        np.add.at(of_photo, (label[label < 11], found[label < 11]), 1)
        np.testing.assert_array_equal(first.image_matrices[index], of_photo)
        matrix += of_photo
        same += (found == other.full_size_class_map(image, 64)[0]).sum()
        total += label.size
    np.testing.assert_array_equal(first.matrix, matrix)
    assert second.agreement == pytest.approx(same / total)
    assert (first.images, first.invokes) == (4, 20)  # 9 + 1 + 9 + 1
    assert "cut in tiles: 5.0 invokes per image on average (20 for 4 images)" in first.warnings[-1]


def test_photos_that_are_not_larger_are_scored_as_without_tiles(own_folder):
    dataset = open_dataset("folder", own_folder, split="val")
    off, on = (
        evaluate([read_contract(INT8)], dataset, options=options(overlap, keep_images=True))[0]
        for overlap in (-1, 32)
    )
    for index, same in enumerate((False, True, False, True)):
        assert np.array_equal(off.image_matrices[index], on.image_matrices[index]) == same
    assert (off.invokes, off.images) == (4, 4)
    assert not [warning for warning in off.warnings if "tiles" in warning]


def test_file_with_an_argmax_head_is_stitched_too(camvid):
    contract = read_contract(CLASS_MAP)
    assert contract.classes_output
    size = contract.height
    own = ModelRunner(contract)
    photo = enlarged(camvid, 0)
    found, invokes = own.full_size_class_map(photo, 32)
    assert invokes == 4  # 720 and 960 take two tiles of 513 each
    corner = own.class_map(photo[-size:, -size:])
    # Tiles begin at rows 0 and 207, columns 0 and 447: midway lie 360 and 480.
    np.testing.assert_array_equal(found[360:, 480:], corner[360 - 720 :, 480 - 960 :])


def test_sharded_counts_are_the_local_ones(own_folder):
    pytest.importorskip("apache_beam", reason="the extra `beam` is not installed")
    from tflite_tools.evaluation.sharded import ListSource, evaluate_sharded  # noqa: PLC0415

    contracts = [read_contract(INT8)]
    source = ListSource("folder", str(own_folder), split="val")
    (local,) = evaluate(contracts, source.open(), options=options(64))
    (sharded,) = evaluate_sharded(contracts, source, shards=2, limit=0, tile_overlap=64)
    np.testing.assert_array_equal(sharded.matrix, local.matrix)
    assert (sharded.invokes, sharded.warnings) == (local.invokes, local.warnings)


def test_command_records_the_setting(own_folder, tmp_path):
    status, output, errors = command(
        f"--model={INT8}",
        "--dataset=folder",
        f"--data_dir={own_folder}",
        "--limit=2",
        "--tile_overlap=64",
        "--latency_repeats=2",
        f"--output_dir={tmp_path}",
    )
    assert status == 0, errors
    assert "overlapping by at least 64 pixels" in output.splitlines()[0]
    assert "int8: cut in tiles: 5.0 invokes per image" in output
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["options"]["tile_overlap"] == 64
    assert metrics["models"][0]["images"] == 2


@pytest.mark.parametrize(
    ("overlap", "status", "message"),
    [
        ("368", 1, "int8: tiles of 368x480 pixels (height x width) can overlap by 0 to 367 pixels"),
        ("-2", 1, "tile_overlap must be -1 (off) or at least 0 pixels; got -2"),
        ("half", 2, "--tile_overlap=half"),
    ],
)
def test_bad_overlap_ends_with_one_line(tmp_path, overlap, status, message):
    code, _, errors = command(
        f"--model={INT8}",
        "--dataset=synthetic",
        f"--tile_overlap={overlap}",
        f"--output_dir={tmp_path}/out",
    )
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert (code, len(lines)) == (status, 1), errors
    assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_one_photo_of_many_tiles_gets_more_patience():
    """A 6000x6000 photo in tiles of 257 are 576 invokes and more; int16x8 takes a second each."""
    assert task_timeout_s(0) > 10 * 576
    assert task_timeout_s(-1) == 600

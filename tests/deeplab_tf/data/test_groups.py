"""Readers say which samples belong together: frames of a drive, tiles of a photo."""

import numpy as np
import pytest

from deeplab_tf.data.dataset import Subset, hold_out_groups
from deeplab_tf.data.readers import (
    camvid,
    cityscapes,
    folder,
    loveda,
    potsdam,
    semantic_kitti,
    synthetic,
    voc,
)


def test_camvid_photos_are_frames_of_drives(tmp_path):
    (tmp_path / "val.txt").write_text(
        "val/0016E5_07959.jpg a.png\nval/0001TP_1.png b.png\nval/plain.png c.png\n"
    )
    dataset = camvid.open_split(tmp_path, "val")
    assert [dataset.group(index) for index in range(3)] == ["0016E5", "0001TP", ""]
    assert dataset.groups(2) == ("0016E5", "0001TP")
    assert dataset.groups(3) == (), "of one image nothing is known"


def test_real_camvid_lists_hold_three_drives_and_one(shared_dir):
    train, val = (camvid.open_split(shared_dir / "data/camvid", s) for s in ("train", "val"))
    assert set(train.groups(len(train))) == {"0001TP", "0006R0", "0016E5"}
    assert set(val.groups(len(val))) == {"0016E5"}


def test_voc_photos_and_drawn_scenes_are_independent(shared_dir):
    photos = voc.open_split(shared_dir / "data/voc_animals", "val")
    assert len(set(photos.groups(len(photos)))) == len(photos) == 222
    scenes = synthetic.open_split(None, "val")
    assert len(set(scenes.groups(60))) == 60


def test_cityscapes_photos_of_a_city_belong_together(tmp_path, write_image, photo, mask):
    for city in ("aachen", "ulm"):
        for number in range(2):
            stem = f"{city}/{city}_{number:06}_000019"
            write_image(tmp_path / f"leftImg8bit/val/{stem}_leftImg8bit.png", photo())
            write_image(tmp_path / f"gtFine/val/{stem}_gtFine_labelIds.png", mask(num_classes=4))
    dataset = cityscapes.open_split(tmp_path, "val")
    assert dataset.groups(4) == ("aachen", "aachen", "ulm", "ulm")


def test_tiles_of_an_aerial_photo_belong_together(shared_dir):
    for city, open_split in (
        ("potsdam", potsdam.open_potsdam),
        ("vaihingen", potsdam.open_vaihingen),
    ):
        dataset = open_split(shared_dir / "data/samples/aerial" / city, "train")
        group = dataset.group(0)
        assert group
        assert f"{group}_" in dataset.sample_name(0)
        assert group != dataset.sample_name(0)


def test_scans_of_a_sequence_belong_together(shared_dir):
    root = shared_dir / "data/lidar/semantic_kitti_format"
    dataset = semantic_kitti.open_split(root, "train")
    groups = dataset.groups(len(dataset))
    assert len(set(groups)) > 1
    for index, group in enumerate(groups):
        assert dataset.sample_name(index).startswith(f"{group}/velodyne/")


def test_of_flights_nothing_is_known(shared_dir):
    dataset = loveda.open_split(shared_dir / "data/samples/aerial/loveda", "train")
    assert dataset.groups(len(dataset)) == ()


@pytest.fixture
def own_folder(tmp_path, write_image, photo, mask):
    """Ten photos of a user's own."""
    (tmp_path / "classes.txt").write_text("a\nb\n")
    for number in range(10):
        write_image(tmp_path / f"images/{number}.png", photo())
        write_image(tmp_path / f"labels/{number}.png", mask(num_classes=2))
    return tmp_path


def test_own_photos_have_the_groups_of_their_file(own_folder):
    assert folder.open_split(own_folder, "train").groups(8) == ()
    lines = "".join(f"{number} video{number // 5}\n" for number in range(10))
    (own_folder / "groups.txt").write_text(lines)
    dataset = folder.open_split(own_folder, "train")
    for index, group in enumerate(dataset.groups(len(dataset))):
        number = int(dataset.sample_name(index).removeprefix("images/").removesuffix(".png"))
        assert group == f"video{number // 5}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 a\n1\n", r"groups\.txt:2: expected `name group`, one line per image, got '1'"),
        ("0 a\n0 b\n", r"groups\.txt:2: expected `name group`"),
        ("0 a\n", r"groups\.txt: no group for \d and 7 more; add a line, or remove the file"),
    ],
)
def test_bad_groups(own_folder, text, message):
    (own_folder / "groups.txt").write_text(text)
    with pytest.raises(ValueError, match=message.replace("7 more", r"\d more")):
        folder.open_split(own_folder, "train")


def test_whole_groups_are_held_out(memory_dataset):
    source = memory_dataset([np.zeros((1, 1, 3))] * 6, [None] * 6)
    source.group = lambda index: "abc"[index // 2]
    rest, held = hold_out_groups(source, ["b"])
    assert (rest.indices, held.indices) == ((0, 1, 4, 5), (2, 3))
    assert (rest.split, held.split) == ("all-minus-b", "holdout")
    assert Subset(held, (1,), split="one").group(0) == "b"
    with pytest.raises(ValueError, match="memory, split 'all': no group d; it has a, b, c"):
        hold_out_groups(source, ["b", "d"])
    with pytest.raises(ValueError, match="would be empty"):
        hold_out_groups(source, ["a", "b", "c"])
    source.group = lambda index: ""
    with pytest.raises(ValueError, match="its samples name no group"):
        hold_out_groups(source, ["a"])

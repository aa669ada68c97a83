"""Readers of LoveDA, ISPRS Potsdam and Vaihingen, and FloodNet, in each layout and form."""

import logging

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.readers import floodnet, loveda, potsdam
from deeplab_tf.data.registry import DATASETS, open_dataset

# Of the ISPRS 2D semantic labelling contest, with the ids of MMSegmentation's conversion.
OFFICIAL_COLORS = {
    (255, 255, 255): 1,  # impervious surfaces
    (0, 0, 255): 2,  # building
    (0, 255, 255): 3,  # low vegetation
    (0, 255, 0): 4,  # tree
    (255, 255, 0): 5,  # car
    (255, 0, 0): 6,  # clutter, background
    (0, 0, 0): 0,  # eroded border
}


def stored(path) -> np.ndarray:
    """What a mask stores, read without the code under test."""
    with Image.open(path) as image:
        return np.array(image)


def below_zero_is_ignored(ids) -> np.ndarray:
    return np.where(ids == 0, 255, ids.astype(int) - 1)


def names(dataset) -> list[str]:
    return [dataset.sample_name(index) for index in range(len(dataset))]


def color_mask(ids) -> np.ndarray:
    return np.array(list(OFFICIAL_COLORS), np.uint8)[
        np.argsort(list(OFFICIAL_COLORS.values()))[ids]
    ]


@pytest.fixture
def write_pair(write_image, photo, mask):
    """Writes an image and its mask; returns the ids."""

    def write(root, image, label, num_classes=7, colors=False):
        ids = mask(num_classes=num_classes, seed=sum(image.encode()))
        write_image(root / image, photo())
        write_image(root / label, color_mask(ids) if colors else ids)
        return ids

    return write


class TestLoveda:
    def test_real_crops(self, shared_dir):
        root = shared_dir / "data/samples/aerial/loveda"
        train, val = (loveda.open_split(root, split) for split in ("train", "val"))
        assert sorted(names(train) + names(val)) == [f"images/{n}.jpg" for n in range(3)]
        assert (len(train), len(val), train.split, val.split) == (2, 1, "train", "val")
        for dataset in (train, val):
            for index, name in enumerate(names(dataset)):
                image, label = dataset.read(index)
                raw = stored(root / name.replace("images", "labels").replace("jpg", "png"))
                assert image.shape == (1024, 1024, 3)
                np.testing.assert_array_equal(label, below_zero_is_ignored(raw))

    def test_names_of_a_real_mask(self, shared_dir):
        """README of the samples: 4 is water, 7 agriculture; both fill parts of crop 2."""
        dataset = loveda.open_split(shared_dir / "data/samples/aerial/loveda", "val")
        raw = stored(shared_dir / "data/samples/aerial/loveda/labels/2.png")
        assert names(dataset) == ["images/2.jpg"]
        for raw_id, name in ((4, "water"), (7, "agriculture"), (6, "forest")):
            index = dataset.label_set.names.index(name)
            assert (dataset.label(0) == index).sum() == (raw == raw_id).sum() > 0

    def test_official_layout(self, tmp_path, write_pair):
        ids = {}
        for domain, number in (("Urban", 2), ("Rural", 1), ("Rural", 2)):
            below = tmp_path / "Train" / domain
            ids[domain, number] = write_pair(
                below, f"images_png/{number}.png", f"masks_png/{number}.png", 8
            )
        write_pair(tmp_path / "Val/Rural", "images_png/9.png", "masks_png/9.png", 8)
        dataset = loveda.open_split(tmp_path, "train")
        assert names(dataset) == [
            "Train/Rural/images_png/1.png",
            "Train/Rural/images_png/2.png",
            "Train/Urban/images_png/2.png",
        ]
        np.testing.assert_array_equal(dataset.label(2), below_zero_is_ignored(ids["Urban", 2]))
        assert names(loveda.open_split(tmp_path, "val")) == ["Val/Rural/images_png/9.png"]

    def test_converted_layout(self, tmp_path, write_pair):
        ids = write_pair(tmp_path, "img_dir/val/7.png", "ann_dir/val/7.png", 8)
        np.testing.assert_array_equal(
            loveda.open_split(tmp_path, "val").label(0), below_zero_is_ignored(ids)
        )

    def test_official_test_list_has_no_masks(self, tmp_path, write_image, photo):
        write_image(tmp_path / "Test/Rural/images_png/1.png", photo())
        with pytest.raises(FileNotFoundError, match="masks_png: no such folder; LoveDA has masks"):
            loveda.open_split(tmp_path, "test")

    @pytest.mark.parametrize("wrong", [8, 255])
    def test_unknown_id(self, tmp_path, write_image, photo, wrong):
        """255 in a mask means that 0 was moved there and every class down by one."""
        write_image(tmp_path / "img_dir/train/1.png", photo(2, 2))
        write_image(tmp_path / "ann_dir/train/1.png", np.array([[0, 1], [7, wrong]], np.uint8))
        with pytest.raises(ValueError, match=rf"1\.png: class id {wrong} is unknown to loveda"):
            loveda.open_split(tmp_path, "train").label(0)

    def test_two_images_of_the_same_name(self, tmp_path, write_pair, write_image, photo):
        write_pair(tmp_path, "images/1.png", "labels/1.png", 8)
        write_image(tmp_path / "images/1.jpg", photo())
        with pytest.raises(ValueError, match=r"images/1\.jpg and images/1\.png have the same name"):
            loveda.open_split(tmp_path, "train")

    def test_split_that_a_division_does_not_have(self, tmp_path, write_pair):
        write_pair(tmp_path, "images/1.png", "labels/1.png", 8)
        with pytest.raises(ValueError, match="divided into train and val; got split 'test'"):
            loveda.open_split(tmp_path, "test")


CITIES = {
    "potsdam": (
        ("2_Ortho_RGB/top_potsdam_2_10_RGB.tif", "2_Ortho_RGB/top_potsdam_3_14_RGB.tif"),
        "5_Labels_all/top_potsdam_{}_label.tif",
        ("2_10", "3_14"),
    ),
    "vaihingen": (
        ("top/top_mosaic_09cm_area1.tif", "top/top_mosaic_09cm_area38.tif"),
        "gts_for_participants/top_mosaic_09cm_{}.tif",
        ("area1", "area38"),
    ),
}


class TestIsprs:
    @pytest.mark.parametrize(
        ("city", "stem"), [("potsdam", "2_10_0_0_512_512"), ("vaihingen", "area1_0_0_512_512")]
    )
    def test_real_crop(self, shared_dir, city, stem):
        root = shared_dir / "data/samples/aerial" / city
        dataset = open_dataset(city, root, split="train")
        image, label = dataset.read(0)
        assert names(dataset) == [f"images/{stem}.jpg"]
        assert image.shape == (512, 512, 3)
        raw = stored(root / f"labels/{stem}.png")
        np.testing.assert_array_equal(label, below_zero_is_ignored(raw))
        with pytest.raises(ValueError, match=f"{city}, split 'val': no samples"):
            open_dataset(city, root, split="val")

    @pytest.mark.parametrize("city", ["potsdam", "vaihingen"])
    def test_colours_of_a_real_crop(self, shared_dir, tmp_path, write_image, city):
        """The same crop painted as the archives paint it gives the same classes."""
        root = shared_dir / "data/samples/aerial" / city
        crop = open_dataset(city, root, split="train")
        name = crop.samples[0].label
        write_image(tmp_path / crop.samples[0].image, crop.image(0))
        write_image(tmp_path / name, color_mask(stored(root / name)))
        painted = open_dataset(city, tmp_path, split="train")
        np.testing.assert_array_equal(painted.label(0), crop.label(0))
        assert len(np.unique(painted.label(0))) == 6  # five classes, border

    @pytest.mark.parametrize("city", CITIES)
    @pytest.mark.parametrize("colors", [True, False])
    def test_archives(self, tmp_path, write_pair, city, colors):
        photos, label, areas = CITIES[city]
        ids = [
            write_pair(tmp_path, image, label.format(area), colors=colors)
            for image, area in zip(photos, areas, strict=True)
        ]
        for number, split in enumerate(("train", "val")):
            dataset = open_dataset(city, tmp_path, split=split)
            assert names(dataset) == [photos[number]]
            np.testing.assert_array_equal(dataset.label(0), below_zero_is_ignored(ids[number]))

    def test_eroded_masks_go_first(self, tmp_path, write_pair, write_image):
        write_pair(
            tmp_path,
            "2_Ortho_RGB/2_Ortho_RGB/top_potsdam_2_10_RGB.tif",  # unpacked once too deep
            "5_Labels_all/top_potsdam_2_10_label.tif",
        )
        eroded = "5_Labels_all_noBoundary/top_potsdam_2_10_label_noBoundary.tif"
        write_image(tmp_path / eroded, np.zeros((6, 8, 3), np.uint8))
        dataset = potsdam.open_potsdam(tmp_path, "train")
        assert dataset.samples[0].label == eroded
        assert (dataset.label(0) == 255).all()

    def test_converted_layout_keeps_its_own_division(self, tmp_path, write_pair):
        """3_14 is a test area; in a folder train it trains all the same."""
        name = "train/3_14_0_0_8_6.png"
        ids = write_pair(tmp_path, f"img_dir/{name}", f"ann_dir/{name}")
        dataset = potsdam.open_potsdam(tmp_path, "train")
        np.testing.assert_array_equal(dataset.label(0), below_zero_is_ignored(ids))

    def test_areas_are_the_benchmarks(self):
        """24 and 14 tiles of Potsdam, 16 and 17 of Vaihingen; no area is in both."""
        counts = [(24, 14), (16, 17)]
        for city, (train, val) in zip((potsdam.POTSDAM, potsdam.VAIHINGEN), counts, strict=True):
            assert (len(city.areas["train"]), len(city.areas["val"])) == (train, val)
            assert not city.areas["train"] & city.areas["val"]
        assert {"2_10", "4_12", "6_7", "7_12"} <= potsdam.POTSDAM.areas["train"]
        assert {"2_13", "4_15", "7_13"} <= potsdam.POTSDAM.areas["val"]

    @pytest.mark.parametrize("color", [(255, 0, 255), (254, 255, 255), (1, 1, 1), (204, 0, 0)])
    def test_colour_that_is_no_class(self, tmp_path, write_image, photo, color):
        painted = np.full((6, 8, 3), 255, np.uint8)
        painted[2, 3] = painted[4, 4] = color
        write_image(tmp_path / "images/2_10_0_0_8_6.png", photo())
        write_image(tmp_path / "labels/2_10_0_0_8_6.png", painted)
        shown = ", ".join(map(str, color))
        with pytest.raises(
            ValueError,
            match=rf"_6\.png: 2 pixels have colours of no class, for example \({shown}\)",
        ):
            potsdam.open_potsdam(tmp_path, "train").label(0)

    def test_id_that_is_no_class(self, tmp_path, write_image, photo):
        write_image(tmp_path / "images/2_10_0_0_8_6.png", photo())
        write_image(tmp_path / "labels/2_10_0_0_8_6.png", np.full((6, 8), 7, np.uint8))
        with pytest.raises(ValueError, match="class id 7 is unknown to potsdam"):
            potsdam.open_potsdam(tmp_path, "train").label(0)

    def test_mask_that_does_not_decode(self, tmp_path, write_image, photo):
        write_image(tmp_path / "images/2_10_0_0_8_6.png", photo())
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/2_10_0_0_8_6.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match=r"_6\.png: not a readable image"):
            potsdam.open_potsdam(tmp_path, "train").label(0)

    def test_area_without_a_mask(self, tmp_path, write_pair, write_image, photo):
        (image, _), label, (area, _) = CITIES["potsdam"]
        write_pair(tmp_path, image, label.format(area))
        write_image(tmp_path / "2_Ortho_RGB/top_potsdam_7_7_RGB.tif", photo())
        with pytest.raises(ValueError, match=r"image without a mask: .*top_potsdam_7_7_RGB\.tif"):
            potsdam.open_potsdam(tmp_path, "train")

    def test_names_without_an_area_are_counted(
        self, tmp_path, write_pair, write_image, photo, caplog
    ):
        write_pair(tmp_path, "images/2_10_0_0_8_6.png", "labels/2_10_0_0_8_6.png")
        write_image(tmp_path / "images/cover.png", photo())
        with caplog.at_level(logging.WARNING):
            assert len(potsdam.open_potsdam(tmp_path, "train")) == 1
        assert "skipped 1 images" in caplog.text
        assert "images/cover.png" in caplog.text

    def test_images_without_masks(self, tmp_path, write_image, photo):
        write_image(tmp_path / "top/top_mosaic_09cm_area1.tif", photo())
        with pytest.raises(
            FileNotFoundError, match="no masks next to top; unpack one of ISPRS_sem"
        ):
            potsdam.open_vaihingen(tmp_path, "train")

    def test_unknown_split(self, tmp_path):
        with pytest.raises(ValueError, match="potsdam: unknown split 'test'; its training areas"):
            potsdam.open_potsdam(tmp_path, "test")


class TestFloodnet:
    @pytest.mark.parametrize(
        "below",
        ["", "train/", "FloodNet-Supervised_v1.0/", "FloodNet-Supervised_v1.0/train/"],
    )
    def test_layouts(self, tmp_path, write_image, photo, below):
        rng = np.random.default_rng(0)
        ids = {}
        for stem in ("6279", "10165"):
            ids[stem] = rng.integers(0, 10, (6, 8), dtype=np.uint8)
            write_image(tmp_path / f"{below}train-org-img/{stem}.jpg", photo())
            write_image(tmp_path / f"{below}train-label-img/{stem}_lab.png", ids[stem])
        dataset = floodnet.open_split(tmp_path, "train")
        assert names(dataset) == [f"{below}train-org-img/{stem}.jpg" for stem in ("10165", "6279")]
        np.testing.assert_array_equal(dataset.label(0), ids["10165"])  # 0 is a class

    def test_classes(self):
        assert floodnet.LABEL_SET.num_classes == 10
        assert floodnet.LABEL_SET.names[0] == "background"
        assert floodnet.LABEL_SET.names[5:] == ("water", "tree", "vehicle", "pool", "grass")

    def test_colour_masks_are_refused(self, tmp_path, write_image, photo):
        write_image(tmp_path / "val-org-img/1.jpg", photo())
        write_image(tmp_path / "val-label-img/1_lab.png", photo())
        with pytest.raises(
            ValueError, match=r"1_lab\.png: a mask must store one class id per pixel"
        ):
            floodnet.open_split(tmp_path, "val").label(0)

    def test_unknown_id(self, tmp_path, write_image, photo):
        write_image(tmp_path / "val-org-img/1.jpg", photo())
        write_image(tmp_path / "val-label-img/1_lab.png", np.full((6, 8), 10, np.uint8))
        with pytest.raises(ValueError, match="class id 10 is unknown to floodnet"):
            floodnet.open_split(tmp_path, "val").label(0)

    def test_masks_are_missing(self, tmp_path, write_image, photo):
        write_image(tmp_path / "val-org-img/1.jpg", photo())
        with pytest.raises(
            FileNotFoundError, match="val-label-img: no such folder; images and masks need"
        ):
            floodnet.open_split(tmp_path, "val")


@pytest.mark.parametrize(
    ("name", "own_folder"),
    [
        ("floodnet", "train-org-img: no such folder, nor train/train-org-img"),
        ("loveda", "Train: no such folder; LoveDA needs Train and Val"),
        ("potsdam", "images: no such folder; potsdam needs 2_Ortho_RGB"),
        ("vaihingen", "images: no such folder; vaihingen needs top"),
    ],
)
def test_registry_leads_to_each_reader(name, own_folder, tmp_path):
    assert name in DATASETS
    with pytest.raises(FileNotFoundError, match=own_folder):
        open_dataset(name, tmp_path, split="train")

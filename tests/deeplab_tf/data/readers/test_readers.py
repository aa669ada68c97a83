"""Each reader on the real sample data, and on everything that users get wrong."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.dataset import FileDataset, Sample, class_frequencies, hold_out, identity_ids
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.readers import ade20k, camvid, cityscapes, folder, voc
from deeplab_tf.data.registry import DATASETS, open_dataset


def _raw(path) -> np.ndarray:
    """What a mask stores, read without the code under test."""
    with Image.open(path) as image:
        return np.array(image)


class TestCamVid:
    @pytest.mark.parametrize(("split", "count"), [("train", 367), ("val", 101)])
    def test_real_lists(self, shared_dir, split, count):
        dataset = camvid.open_split(shared_dir / "data/camvid", split)
        assert len(dataset) == count
        image, label = dataset.read(count - 1)
        assert (image.shape, label.shape) == ((360, 480, 3), (360, 480))
        raw = _raw(shared_dir / "data/camvid" / dataset.samples[-1].label)
        np.testing.assert_array_equal(label, np.where(raw == 11, 255, raw))
        assert (raw == 11).any()

    def test_missing_list(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"val\.txt: no such list; CamVid needs"):
            camvid.open_split(tmp_path, "val")

    def test_bad_line(self, tmp_path):
        (tmp_path / "val.txt").write_text("a.jpg a.png\n\nb.jpg\n")
        with pytest.raises(ValueError, match=r"val\.txt:3: expected `image annotation`, got 'b"):
            camvid.open_split(tmp_path, "val")

    def test_empty_list(self, tmp_path):
        (tmp_path / "val.txt").write_text("\n")
        with pytest.raises(ValueError, match="camvid, split 'val': no samples in"):
            camvid.open_split(tmp_path, "val")

    def test_list_that_is_no_text(self, tmp_path):
        (tmp_path / "val.txt").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"val\.txt: not UTF-8 text"):
            camvid.open_split(tmp_path, "val")


class TestVoc:
    @pytest.mark.parametrize(("split", "count"), [("train", 1000), ("val", 222)])
    @pytest.mark.parametrize("below", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
    def test_real_lists_from_each_folder(self, shared_dir, split, count, below):
        dataset = voc.open_split(shared_dir / "data/voc_animals" / below, split)
        assert len(dataset) == count
        assert dataset.image(0).shape[:2] == dataset.label(0).shape

    def test_real_masks_are_their_palette_indices(self, shared_dir):
        dataset = voc.open_split(shared_dir / "data/voc_animals", "val")
        for index in range(5):
            raw = _raw(dataset.data_dir / dataset.samples[index].label)
            np.testing.assert_array_equal(dataset.label(index), raw)
            assert set(np.unique(raw)) <= {*range(21), 255}

    def test_palette_of_a_real_mask_is_ours(self, shared_dir):
        dataset = voc.open_split(shared_dir / "data/voc_animals", "val")
        with Image.open(dataset.data_dir / dataset.samples[0].label) as mask:
            palette = np.reshape(mask.getpalette(), (-1, 3))
            used = sorted(set(np.unique(np.array(mask))) - {255})
        assert used[0] == 0
        assert len(used) > 1
        assert [tuple(palette[i]) for i in used] == [dataset.label_set.colors[i] for i in used]

    def test_names(self):
        names = voc.LABEL_SET.names
        assert len(names) == 21
        assert (names[0], names[8], names[12], names[15], names[20]) == (
            "background",
            "cat",
            "dog",
            "person",
            "tvmonitor",
        )

    def test_missing_layout(self, tmp_path):
        with pytest.raises(
            FileNotFoundError, match="no VOC2012/ImageSets/Segmentation in it; give"
        ):
            voc.open_split(tmp_path, "val")

    def test_missing_list_names_those_that_exist(self, tmp_path):
        lists = tmp_path / "VOC2012/ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "train.txt").write_text("a\n")
        with pytest.raises(FileNotFoundError, match=r"val\.txt: no such list; available: train;"):
            voc.open_split(tmp_path, "val")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("a\nb.jpg b.png\n", r"val\.txt:2: expected one name per line, got 'b\.jpg b\.png'"),
            ("a\nb\na\n", r"val\.txt:3: a is listed in line 1 already"),
            ("\n", "voc, split 'val': no samples"),
        ],
    )
    def test_bad_list(self, tmp_path, text, message):
        lists = tmp_path / "ImageSets/Segmentation"
        lists.mkdir(parents=True)
        (lists / "val.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            voc.open_split(tmp_path, "val")


class TestCityscapes:
    def test_real_pair_equals_the_official_train_ids(self, shared_dir):
        """The sample's two masks were shrunk separately and differ at 77 edge pixels of 32768.

        A class mapped wrongly would add its own pixels, 43 (fence) or more.
        """
        root = shared_dir / "data/samples/cityscapes"
        dataset = cityscapes.open_split(root, "val")
        assert len(dataset) == 1
        stem = "frankfurt/frankfurt_000000_000294"
        assert dataset.sample_name(0) == f"leftImg8bit/val/{stem}_leftImg8bit.png"
        official = _raw(root / f"gtFine/val/{stem}_gtFine_labelTrainIds.png")
        assert (dataset.label(0) != official).sum() <= 77

    def test_table_of_ids(self):
        """From cityscapesScripts: void ids 0-6, 9, 10, 14-16, 18, 29, 30 are not evaluated."""
        table = cityscapes._id_table()
        void = {*range(7), 9, 10, 14, 15, 16, 18, 29, 30}
        assert {i for i in range(34) if table[i] == 255} == void
        assert (table[7], table[13], table[26], table[28], table[33]) == (0, 4, 13, 15, 18)
        assert table[255] == 255  # license plate, -1
        assert set(table[34:255]) == {-1}

    def test_names_and_colours(self):
        colors = dict(zip(cityscapes.LABEL_SET.names, cityscapes.LABEL_SET.colors, strict=True))
        assert len(colors) == 19
        assert colors["road"] == (128, 64, 128)
        assert colors["person"] == (220, 20, 60)
        assert colors["bicycle"] == (119, 11, 32)

    @pytest.mark.parametrize(
        ("given", "missing"), [("gtFine", "leftImg8bit"), ("leftImg8bit", "gtFine")]
    )
    def test_missing_folder(self, tmp_path, given, missing):
        (tmp_path / given / "val").mkdir(parents=True)
        with pytest.raises(FileNotFoundError, match=rf"{missing}/val: no such folder; Cityscapes"):
            cityscapes.open_split(tmp_path, "val")

    def test_empty_split(self, tmp_path):
        for kind in ("leftImg8bit", "gtFine"):
            (tmp_path / kind / "val").mkdir(parents=True)
        with pytest.raises(ValueError, match="cityscapes, split 'val': no samples"):
            cityscapes.open_split(tmp_path, "val")

    def test_unknown_id(self, tmp_path, write_image, photo):
        write_image(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", photo(1, 2))
        ids = np.array([[7, 34]], np.uint8)
        write_image(tmp_path / "gtFine/val/ulm/ulm_0_gtFine_labelIds.png", ids)
        dataset = cityscapes.open_split(tmp_path, "val")
        with pytest.raises(ValueError, match=r"labelIds\.png: class id 34 is unknown to cityscape"):
            dataset.label(0)

    def test_image_without_mask(self, tmp_path, write_image, photo):
        write_image(tmp_path / "leftImg8bit/val/ulm/ulm_0_leftImg8bit.png", photo())
        (tmp_path / "gtFine/val").mkdir(parents=True)
        with pytest.raises(ValueError, match=r"image without a mask: leftImg8bit/val/ulm/ulm_0_le"):
            cityscapes.open_split(tmp_path, "val")


class TestAde20k:
    @pytest.mark.parametrize("split", ["validation", "val"])
    def test_real_pairs(self, shared_dir, split):
        dataset = ade20k.open_split(shared_dir / "data/samples/ade20k", split)
        assert [len(dataset), dataset.label_set.num_classes] == [3, 150]
        for index in range(3):
            image, label = dataset.read(index)
            raw = _raw(dataset.data_dir / dataset.samples[index].label).astype(int)
            np.testing.assert_array_equal(label, np.where(raw == 0, 255, raw - 1))
            assert image.shape[:2] == raw.shape

    def test_names_of_the_official_file(self, shared_dir):
        names = ade20k.open_split(shared_dir / "data/samples/ade20k", "val").label_set.names
        assert (names[0], names[1], names[149]) == ("wall", "building, edifice", "flag")

    def _write(self, root, photo, write_image, names, raw=((0, 150),)):
        write_image(root / "images/validation/x.jpg", photo(1, 2))
        write_image(root / "annotations/validation/x.png", np.array(raw, np.uint8))
        if names is not None:
            (root / "objectInfo150.txt").write_text(names)

    def _names(self, count=150, header="Idx\tRatio\tName"):
        return "\n".join([header, *(f"{i}\t0.1\tclass {i}" for i in range(1, count + 1))])

    def test_first_and_last_id(self, tmp_path, photo, write_image):
        self._write(tmp_path, photo, write_image, self._names())
        assert ade20k.open_split(tmp_path, "val").label(0).tolist() == [[255, 149]]

    @pytest.mark.parametrize("raw", [151, 255])
    def test_unknown_id(self, tmp_path, photo, write_image, raw):
        self._write(tmp_path, photo, write_image, self._names(), [[1, raw]])
        with pytest.raises(ValueError, match=rf"x\.png: class id {raw} is unknown to ade20k"):
            ade20k.open_split(tmp_path, "val").label(0)

    def test_missing_names(self, tmp_path, photo, write_image):
        self._write(tmp_path, photo, write_image, None)
        with pytest.raises(FileNotFoundError, match=r"objectInfo150\.txt: no such file; the class"):
            ade20k.open_split(tmp_path, "val")

    @pytest.mark.parametrize(
        ("kind", "message"),
        [
            ("149 rows", r"expected one row per class with Idx 1\.\.150, got 149 rows"),
            ("spaces", "expected tab-separated columns Idx and Name"),
            ("no name", "a class has no name"),
            ("short row", "row 150 lacks a column"),
            ("empty", "expected tab-separated columns Idx and Name"),
        ],
    )
    def test_bad_names(self, tmp_path, photo, write_image, kind, message):
        names = {
            "149 rows": self._names(149),
            "spaces": self._names().replace("\t", " "),
            "no name": self._names().removesuffix("class 150"),
            "short row": self._names().removesuffix("\tclass 150"),
            "empty": "",
        }[kind]
        self._write(tmp_path, photo, write_image, names)
        with pytest.raises(ValueError, match=message):
            ade20k.open_split(tmp_path, "val")

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="images/training: no such folder; ADE20K"):
            ade20k.open_split(tmp_path, "train")


class TestFolder:
    @pytest.fixture
    def write_pairs(self, tmp_path, write_image, photo, mask):
        def write(*stems, images="images", labels="labels", classes="sky\nsea\nland\n"):
            for number, stem in enumerate(stems):
                write_image(tmp_path / images / f"{stem}.jpg", photo(seed=number))
                write_image(tmp_path / labels / f"{stem}.png", mask(seed=number))
            (tmp_path / "classes.txt").write_text(classes)
            return tmp_path

        return write

    def test_real_aerial_crops(self, shared_dir, tmp_path):
        """LoveDA through a list of classes, as any user would bring it."""
        for kind in ("images", "labels"):
            (tmp_path / kind).symlink_to(shared_dir / "data/samples/aerial/loveda" / kind)
        names = (
            "none",
            "background",
            "building",
            "road",
            "water",
            "barren",
            "forest",
            "agriculture",
        )
        (tmp_path / "classes.txt").write_text("\n".join(names))
        (tmp_path / "all.txt").write_text("2\n0\n")
        dataset = folder.open_split(tmp_path, "all")
        assert [s.image for s in dataset.samples] == ["images/2.jpg", "images/0.jpg"]
        image, label = dataset.read(0)
        assert image.shape == (1024, 1024, 3)
        np.testing.assert_array_equal(label, _raw(tmp_path / "labels/2.png"))
        assert set(np.unique(label)) == {1, 4, 6, 7}

    def test_list_chooses_and_orders(self, write_pairs):
        root = write_pairs("a", "b", "c")
        (root / "train.txt").write_text("c\na\n")
        dataset = folder.open_split(root, "train")
        assert [s.label for s in dataset.samples] == ["labels/c.png", "labels/a.png"]

    def test_folders_of_splits(self, write_pairs):
        write_pairs("a", "b", images="images/train", labels="labels/train")
        root = write_pairs("c", images="images/val", labels="labels/val")
        assert len(folder.open_split(root, "train")) == 2
        assert folder.open_split(root, "val").samples == (
            Sample("images/val/c.jpg", "labels/val/c.png"),
        )

    def test_all_endings_any_case(self, tmp_path, write_image, photo, mask):
        for name in ("a.JPG", "b.jpeg", "c.png", "d.BMP"):
            write_image(tmp_path / "images/val" / name, photo())
        for name in ("a.png", "b.PNG", "c.bmp", "d.png"):
            write_image(tmp_path / "labels/val" / name, mask())
        (tmp_path / "classes.txt").write_text("sky\nsea\nland")
        dataset = folder.open_split(tmp_path, "val")
        assert [s.image for s in dataset.samples] == [
            f"images/val/{name}" for name in ("a.JPG", "b.jpeg", "c.png", "d.BMP")
        ]
        for index in range(4):
            np.testing.assert_array_equal(dataset.label(index), mask())

    @pytest.mark.parametrize("where", ["images", "images/val"])
    def test_masks_named_after_their_image(self, tmp_path, write_image, photo, mask, where):
        """`labels` may hold text files of another format."""
        masks = where.replace("images", "masks")
        for name in ("a.webp", "b.tif", "c.tiff"):
            write_image(tmp_path / where / name, photo())
        for name in ("a_mask.png", "b.tif", "c_mask.tiff"):
            write_image(tmp_path / masks / name, mask())
        (tmp_path / "labels").mkdir()
        (tmp_path / "labels/a.txt").write_text("0 0 0 1 0 1 1\n")
        (tmp_path / "classes.txt").write_text("sky\nsea\nland")
        if where == "images":
            (tmp_path / "val.txt").write_text("a\nb\nc\n")
        dataset = folder.open_split(tmp_path, "val")
        assert [s.label for s in dataset.samples] == [
            f"{masks}/{name}" for name in ("a_mask.png", "b.tif", "c_mask.tiff")
        ]
        for index in range(3):
            image, label = dataset.read(index)
            assert image.shape == (*label.shape, 3)
            np.testing.assert_array_equal(label, mask())

    def test_two_folders_of_masks(self, tmp_path, write_image, photo, mask):
        write_image(tmp_path / "images/a.png", photo())
        for name in ("labels", "masks"):
            write_image(tmp_path / name / "a.png", mask())
        (tmp_path / "classes.txt").write_text("sky\nsea\nland")
        with pytest.raises(ValueError, match="both labels and masks hold masks; move one"):
            folder.open_split(tmp_path, "train")

    @pytest.mark.parametrize("splits", [False, True])
    def test_masks_beside_their_image(self, tmp_path, write_image, photo, mask, splits):
        folders = ("train/", "val/") if splits else ("", "")
        for place, name in zip(folders, "ab", strict=True):
            write_image(tmp_path / f"{place}{name}.jpg", photo())
            write_image(tmp_path / f"{place}{name}_mask.png", mask())
        (tmp_path / "classes.txt").write_text("sky\nsea\nland")
        found = [folder.open_split(tmp_path, split).samples for split in ("train", "val")]
        assert sorted(one.image for part in found for one in part) == [
            f"{place}{name}.jpg" for place, name in zip(folders, "ab", strict=True)
        ]
        for part in found:
            assert part[0].label == part[0].image.replace(".jpg", "_mask.png")

    def test_jpeg_masks_beside_their_image(self, tmp_path, write_image, photo, mask):
        write_image(tmp_path / "a.jpg", photo())
        write_image(tmp_path / "a_mask.jpg", mask())
        (tmp_path / "classes.txt").write_text("sky\nsea\nland")
        with pytest.raises(ValueError, match=r"a_mask\.jpg: expected a mask in \.png .*save masks"):
            folder.open_split(tmp_path, "train")

    def test_division_is_a_partition_that_the_names_alone_decide(self, write_pairs):
        stems = [f"photo{i:02d}" for i in range(20)]
        root = write_pairs(*stems)
        train, val = (folder.open_split(root, split) for split in ("train", "val"))
        names = [{s.image[7:-4] for s in part.samples} for part in (train, val)]
        assert [len(part) for part in (train, val)] == [16, 4]
        assert names[0] | names[1] == set(stems)
        digests = {s: hashlib.sha256(b"0:" + s.encode()).hexdigest() for s in stems}
        assert names[1] == set(sorted(stems, key=digests.get)[:4])
        assert [s.image for s in train.samples] == sorted(s.image for s in train.samples)

    def test_division_gives_each_part_an_image(self, write_pairs):
        root = write_pairs("a", "b")
        assert [len(folder.open_split(root, split)) for split in ("train", "val")] == [1, 1]

    def test_one_image_cannot_be_divided(self, write_pairs):
        with pytest.raises(ValueError, match=r"1 images cannot be divided .* or write train\.txt"):
            folder.open_split(write_pairs("a"), "train")

    def test_flat_folder_has_no_other_split(self, write_pairs):
        with pytest.raises(ValueError, match=r"into train and val; for 'test' write test\.txt"):
            folder.open_split(write_pairs("a", "b"), "test")

    def test_a_list_of_another_split_forbids_the_division(self, write_pairs):
        """Or `train` would hold the photos of val.txt."""
        root = write_pairs("a", "b", "c")
        (root / "val.txt").write_text("a\n")
        with pytest.raises(FileNotFoundError, match=r"neither train\.txt nor images/train; .*val"):
            folder.open_split(root, "train")

    def test_image_without_mask(self, write_pairs, write_image, photo):
        root = write_pairs("a", "b")
        for name in ("c.jpg", "d.jpg"):
            write_image(root / "images" / name, photo())
        with pytest.raises(
            ValueError, match=r"image without a mask: images/c\.jpg and 1 more; add"
        ):
            folder.open_split(root, "train")

    def test_mask_without_image(self, write_pairs, write_image, mask):
        root = write_pairs("a", "b")
        write_image(root / "labels/c.png", mask())
        with pytest.raises(ValueError, match=r"mask without an image: labels/c\.png; add"):
            folder.open_split(root, "train")

    @pytest.mark.parametrize(
        ("kind", "gone"), [("image", "images/b.jpg"), ("mask", "labels/b.png")]
    )
    def test_listed_but_missing(self, write_pairs, kind, gone):
        root = write_pairs("a", "b")
        (root / gone).unlink()
        (root / "val.txt").write_text("a\nb\n")
        with pytest.raises(ValueError, match=rf"val\.txt: no {kind} named b; add the file"):
            folder.open_split(root, "val")

    def test_two_images_of_the_same_name(self, write_pairs, write_image, photo):
        root = write_pairs("a", "b")
        write_image(root / "images/a.png", photo())
        with pytest.raises(ValueError, match=r"images/a\.jpg and images/a\.png have the same name"):
            folder.open_split(root, "train")

    def test_other_files_are_counted_not_skipped_in_silence(self, write_pairs, caplog):
        root = write_pairs("a", "b")
        (root / "images/notes.md").write_text("x")
        with caplog.at_level("WARNING", logger="absl"):
            assert len(folder.open_split(root, "train")) == 1
        assert "skipped 1 files" in caplog.text
        assert "notes.md" in caplog.text

    @pytest.mark.parametrize("missing", ["images", "labels"])
    def test_missing_folder(self, tmp_path, missing):
        (tmp_path / ("labels" if missing == "images" else "images")).mkdir()
        (tmp_path / "classes.txt").write_text("sky\n")
        with pytest.raises(FileNotFoundError, match=f"{missing}: no such folder; put images in"):
            folder.open_split(tmp_path, "train")

    def test_classes_with_and_without_colours(self, tmp_path):
        (tmp_path / "classes.txt").write_text("\ufefftraffic light 250 170 30\nroad 66\nB 3\n\n")
        labels = folder.read_classes(tmp_path / "classes.txt")
        assert labels.names == ("traffic light", "road 66", "B 3")
        assert labels.colors == ((250, 170, 30), (128, 0, 0), (0, 128, 0))

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "contains no class"),
            ("sky\n\nsea\n", r"classes\.txt:2: blank line; line 2 names class 1"),
            ("sky\nsea\nsky\n", r"classes\.txt:3: class 'sky' occurs twice"),
            ("sky 0 0 256\n", r"classes\.txt:1: expected a colour of 3 numbers 0\.\.255"),
            ("\n".join(map(str, range(256))), "expected at most 255 classes, because .* got 256"),
        ],
    )
    def test_bad_classes(self, tmp_path, text, message):
        (tmp_path / "classes.txt").write_text(text)
        with pytest.raises(ValueError, match=message):
            folder.read_classes(tmp_path / "classes.txt")

    def test_missing_classes(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"classes\.txt: no such file; write one class"):
            folder.open_split(tmp_path, "train")


class TestFileDataset:
    @pytest.fixture
    def one(self, tmp_path, write_image, photo):
        """A data set of one photo, 2x3 pixels, with the given mask."""

        def make(ids, dtype=np.uint8):
            write_image(tmp_path / "a.png", photo(2, 3))
            write_image(tmp_path / "m.png", np.array(ids, dtype))
            labels = LabelSet.from_names(("sky", "sea"))
            sample = Sample("a.png", "m.png")
            return FileDataset(
                "own",
                "all",
                label_set=labels,
                data_dir=tmp_path,
                samples=(sample,),
                id_table=identity_ids(2),
            )

        return make

    def test_label_is_uint8_with_255_ignored(self, one):
        label = one([[0, 1, 255], [1, 0, 0]]).read(0)[1]
        assert label.dtype == np.uint8
        assert label.tolist() == [[0, 1, 255], [1, 0, 0]]

    def test_sixteen_bit_mask(self, one):
        assert one([[0, 1, 255], [1, 0, 0]], np.uint16).label(0).tolist() == [
            [0, 1, 255],
            [1, 0, 0],
        ]

    @pytest.mark.parametrize(("bad", "dtype"), [(2, np.uint8), (254, np.uint8), (900, np.uint16)])
    def test_unknown_id(self, one, bad, dtype):
        with pytest.raises(ValueError, match=rf"m\.png: class id {bad} is unknown to own \(2 clas"):
            one([[0, 1, bad], [1, 0, 0]], dtype).label(0)

    def test_negative_id_is_the_one_named(self, tmp_path, one):
        """PNG has no negative values, TIFF has."""
        dataset = one([[0, 0, 0], [0, 0, 0]])
        Image.fromarray(np.array([[1, -7, 0]], np.int32)).save(tmp_path / "m.png", format="TIFF")
        with pytest.raises(ValueError, match=r"m\.png: class id -7 is unknown"):
            dataset.label(0)

    def test_mask_of_another_size(self, one):
        with pytest.raises(ValueError, match=r"a\.png: the mask is 2x1, its image 3x2; both must"):
            one([[0, 1]]).read(0)

    def test_missing_image(self, tmp_path, one):
        dataset = one([[0, 1, 0], [1, 0, 0]])
        (tmp_path / "a.png").unlink()
        with pytest.raises(FileNotFoundError, match=r"a\.png: no such image"):
            dataset.read(0)

    def test_frequencies_by_hand(self, memory_dataset):
        labels = [np.array([[0, 0, 255]], np.uint8), np.array([[0, 2]], np.uint8)]
        pixels, present = class_frequencies(memory_dataset([None, None], labels))
        assert pixels.tolist() == [3, 0, 1]
        assert present.tolist() == [4, 0, 2]  # 2 + 2 labelled pixels hold a, 2 hold c

    def test_hold_out_is_a_partition_chosen_by_the_seed(self, memory_dataset):
        source = memory_dataset([None] * 20, [None] * 20)
        rest, held = hold_out(source, 5, seed=1)
        assert [len(rest), len(held)] == [15, 5]
        assert sorted(rest.indices + held.indices) == list(range(20))
        assert hold_out(source, 5, seed=1)[1].indices == held.indices
        assert hold_out(source, 5, seed=2)[1].indices != held.indices
        assert held.sample_name(0) == f"sample {held.indices[0]}"

    @pytest.mark.parametrize("count", [0, 3, -1])
    def test_hold_out_leaves_both_parts_a_sample(self, memory_dataset, count):
        with pytest.raises(ValueError, match=f"cannot hold out {count} of 3 samples; give 1 to 2"):
            hold_out(memory_dataset([None] * 3, [None] * 3), count, seed=0)


class TestRegistry:
    @pytest.mark.parametrize(
        ("name", "own_file"),
        [
            ("ade20k", "images/training"),
            ("camvid", r"train\.txt"),
            ("cityscapes", "leftImg8bit/train"),
            ("folder", r"classes\.txt"),
            ("voc", "ImageSets/Segmentation"),
        ],
    )
    def test_known(self, name, own_file, tmp_path):
        """Each entry leads to its reader, which misses its own files in an empty folder."""
        assert name in DATASETS
        with pytest.raises(FileNotFoundError, match=own_file):
            open_dataset(name, tmp_path, split="train")

    def test_unknown(self, tmp_path):
        with pytest.raises(ValueError, match=r"unknown data set 'coco'; known: .*'voc'"):
            open_dataset("coco", tmp_path, split="train")

    def test_folder_is_needed(self):
        with pytest.raises(ValueError, match="'voc' needs --data_dir"):
            open_dataset("voc", "", split="train")

    def test_missing_folder(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="gone: no such folder; --data_dir must name"):
            open_dataset("voc", tmp_path / "gone", split="train")

"""Every format, from label maps to files and back, with its rules and its faults."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.convert import formats
from deeplab_tf.data.convert.conversion import Request, convert, report
from deeplab_tf.data.convert.photos import Orientation
from deeplab_tf.data.convert.regions import Overlaps
from deeplab_tf.data.readers import folder
from deeplab_tf.data.readers.synthetic import LABEL_SET, draw_scene
from tests.deeplab_tf.data.convert import written

NAMES = LABEL_SET.names


def scene(seed, stem=None):
    """A drawn scene, a corner of it unlabelled."""
    image, label = draw_scene(seed)
    label = label.copy()
    label[:9, :7] = written.IGNORED
    return written.Scene(stem or f"s{seed}", image, label)


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(3)]


def write_yolo_splits(scenes, names, target):
    written.write_yolo(scenes[1:], names, target)
    written.write_yolo(scenes[:1], names, target, split="val")


WRITERS = {
    "coco outlines": ("coco", written.write_coco, {}),
    "coco runs": ("coco", written.write_coco, {"runs": True}),
    "yolo": ("yolo", write_yolo_splits, {}),
    "labelme polygons": ("labelme", written.write_labelme, {}),
    "labelme masks": ("labelme", written.write_labelme, {"masks": True, "embedded": True}),
    "cvat polygons": ("cvat", written.write_cvat, {}),
    "cvat masks": ("cvat", written.write_cvat, {"masks": True}),
    "supervisely": ("supervisely", written.write_supervisely, {}),
}


def expected_label(label, names_in_order):
    """The label map with the ids of a converted folder; unlabelled pixels are background."""
    table = np.full(256, names_in_order.index("background"), np.uint8)
    for number, name in enumerate(NAMES):
        table[number] = names_in_order.index(name)
    return table[label]


@pytest.mark.parametrize("case", WRITERS)
def test_there_and_back(tmp_path, scenes, case):
    name, write, options = WRITERS[case]
    write(scenes, NAMES, tmp_path / "in", **options)
    assert formats.recognize(tmp_path / "in") == name
    done = convert(Request(tmp_path / "in", tmp_path / "out"))
    assert done.format == name
    classes = folder.read_classes(tmp_path / "out" / "classes.txt").names
    assert classes[0] == "background"
    assert set(classes[1:]) == set(NAMES)
    if name != "labelme":  # which has no list of classes
        assert classes[1:] == NAMES
    lists = [folder.open_split(tmp_path / "out", split) for split in ("train", "val")]
    assert [len(one) for one in lists] == [2, 1]
    for dataset in lists:
        for index in range(len(dataset)):
            image, label = dataset.read(index)
            stem = dataset.sample_name(index).removeprefix("images/").removesuffix(".png")
            original = next(one for one in scenes if one.stem == stem)
            np.testing.assert_array_equal(image, original.image)
            np.testing.assert_array_equal(label, expected_label(original.label, classes))
    assert "next: python -m deeplab_tf.data.check" in report(done, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert record["format"] == name


def test_agreement_with_real_masks(tmp_path, shared_dir):
    """Six CamVid masks as polygons and run lengths; docs/measurements/data.md has all of them."""
    root = shared_dir / "data/camvid"
    real = []
    for line in (root / "val.txt").read_text().splitlines()[::17]:
        image, mask = (np.asarray(Image.open(root / name)) for name in line.split())
        mask = np.where(mask == 11, written.IGNORED, mask).astype(np.uint8)
        real.append(written.Scene(line.split("/")[1].split(".")[0], image, mask))
    names = [f"class {number}" for number in range(11)]
    for runs, bound in ((False, 0.98), (True, 1.0)):
        source, target = tmp_path / f"in{runs}", tmp_path / f"out{runs}"
        written.write_coco(real, names, source, runs=runs)
        convert(Request(source, target))
        for one in real:
            label = np.asarray(Image.open(target / "labels" / f"{one.stem}.png"))
            wanted = np.where(one.label == written.IGNORED, 0, one.label + 1)
            # Outlines lose unlabelled holes inside a region, and nothing else.
            assert (label == wanted).mean() >= bound


def test_classes_of_a_list_ignored_ones_and_unlabelled_pixels(tmp_path, scenes):
    written.write_coco(scenes, NAMES, tmp_path / "in", runs=True)
    (tmp_path / "names.txt").write_text("vehicle 9 9 9\nsky\nground\nroad\nbuilding\ntree\n")
    request = Request(
        tmp_path / "in",
        tmp_path / "out",
        classes=tmp_path / "names.txt",
        ignored_classes=("pole",),
        unlabelled_ignored=True,
    )
    done = convert(request)
    assert done.result.label_set.names[0] == "vehicle"
    assert done.result.label_set.colors[0] == (9, 9, 9)
    assert done.result.ignored == sum(
        int(((one.label == 5) | (one.label == 255)).sum()) for one in scenes
    )
    assert done.result.pixels[0] == sum(int((one.label == 6).sum()) for one in scenes)


def test_overlap_rule_can_be_chosen(tmp_path):
    big, small = np.zeros((2, 20, 30), bool)
    big[2:18, 2:28] = small[5:10, 5:10] = True
    document = {
        "version": "5",
        "imagePath": "a.png",
        "imageHeight": 20,
        "imageWidth": 30,
        "shapes": [
            {"label": label, "shape_type": "rectangle", "points": points}
            for label, points in (
                ("small", [[5, 5], [10, 10]]),
                ("big", [[2, 2], [28, 18]]),
                ("__ignore__", [[0, 0], [1, 1]]),
                ("_background_", [[27, 2], [28, 3]]),
            )
        ],
    }
    source = tmp_path / "in"
    source.mkdir()
    for stem in "ab":
        document["imagePath"] = f"{stem}.png"
        (source / f"{stem}.json").write_text(json.dumps(document))
        Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(source / f"{stem}.png")
    for rule, pixels in ((None, 0), (Overlaps.SMALLER_ON_TOP, 25), (Overlaps.IGNORED, 0)):
        done = convert(Request(source, tmp_path / f"{rule}", overlaps=rule))
        assert done.result.label_set.names == ("background", "big", "small")
        assert done.result.pixels[2] == 2 * pixels
        # 25 of b under a, 1 of the class that lies over another
        assert done.result.outcome.overlapping == 2 * 26
        assert done.result.ignored == 2 * (1 if rule is not Overlaps.IGNORED else 1 + 26)


class TestColours:
    def test_discovered_and_listed(self, tmp_path, scenes):
        written.write_color_masks(scenes, LABEL_SET.colors, tmp_path / "in")
        done = convert(Request(tmp_path / "in", tmp_path / "out"))
        assert done.format == "color_masks"
        names = done.result.label_set.names
        assert names[0] == "color_000000"
        assert len(names) == 8
        assert "color_804080" in report(done, tmp_path / "out")
        for name, pixels in zip(names, done.result.pixels, strict=True):
            red, green, blue = bytes.fromhex(name.removeprefix("color_"))
            numbers = [n for n, c in enumerate(LABEL_SET.colors) if c == (red, green, blue)]
            number = numbers[0] if numbers else 255
            assert pixels == sum(int((one.label == number).sum()) for one in scenes)

    @pytest.mark.parametrize("file", ["labelmap.txt", "class_dict.csv"])
    def test_lists_of_other_programs(self, tmp_path, scenes, file):
        source = tmp_path / "in"
        written.write_color_masks(scenes, LABEL_SET.colors, source)
        rows = [("nothing", (0, 0, 0)), *zip(NAMES, LABEL_SET.colors, strict=True)]
        if file == "labelmap.txt":
            lines = ["# label:color_rgb:parts:actions"]
            lines += [f"{name}:{red},{green},{blue}::" for name, (red, green, blue) in rows]
        else:
            lines = ["name,r,g,b"]
            lines += [f"{name},{red},{green},{blue}" for name, (red, green, blue) in rows]
        (source / file).write_text("\n".join(lines))
        done = convert(Request(source, tmp_path / "out", ignored_classes=("nothing",)))
        assert done.result.label_set.names == NAMES
        assert done.result.label_set.colors == LABEL_SET.colors
        label = np.asarray(Image.open(tmp_path / "out/labels/s0.png"))
        np.testing.assert_array_equal(label, scenes[0].label)

    def test_jpeg_masks_are_refused_or_snapped_and_counted(self, tmp_path, scenes):
        source = tmp_path / "in"
        written.write_color_masks(scenes, LABEL_SET.colors, source, ending=".jpg", quality=95)
        request = Request(source, tmp_path / "out", format="color_masks")
        with pytest.raises(ValueError, match=r"s0\.jpg and 2 more: a JPEG or WebP mask; .*--snap"):
            convert(request)
        assert not (tmp_path / "out").exists()
        rows = zip(NAMES, LABEL_SET.colors, strict=True)
        lines = ["nothing 0 0 0", *(f"{name} {' '.join(map(str, c))}" for name, c in rows)]
        (tmp_path / "names.txt").write_text("\n".join(lines))
        snapping = Request(
            source,
            tmp_path / "out",
            format="color_masks",
            classes=tmp_path / "names.txt",
            snap_colors=True,
        )
        done = convert(snapping)
        assert done.result.outcome.snapped > 1000
        assert re.search(r"snapped: \d+ pixels .* nearest", report(done, tmp_path / "out"))
        label = np.asarray(Image.open(tmp_path / "out/labels/s0.png"))
        wanted = np.where(scenes[0].label == 255, 0, scenes[0].label + 1)
        assert (label == wanted).mean() > 0.97
        with pytest.raises(ValueError, match="--snap_colors needs the colours"):
            convert(Request(source, tmp_path / "o2", format="color_masks", snap_colors=True))

    def test_smooth_masks_are_no_classes(self, tmp_path, scenes):
        source = tmp_path / "in"
        written.write_color_masks(scenes[:1], LABEL_SET.colors, source)
        path = source / "masks/s0.png"
        with Image.open(path) as mask:
            mask.resize((128, 96)).resize((256, 192)).save(path)
        with pytest.raises(ValueError, match=r"\d+ colours in the masks, the most frequent"):
            convert(Request(source, tmp_path / "out", format="color_masks"))


class TestBinary:
    @pytest.fixture
    def pair(self, tmp_path, scenes):
        """Roads as 0 and 255 beside their photos."""
        source = tmp_path / "in"
        source.mkdir()
        for one in scenes:
            written.write_photo(one, source / f"{one.stem}.jpg", quality=90)
            road = (one.label == 2).astype(np.uint8) * 255
            Image.fromarray(road).save(source / f"{one.stem}_mask.png")
        return source

    def test_masks_of_0_and_255(self, tmp_path, pair, scenes):
        assert formats.recognize(pair) == "binary"
        done = convert(Request(pair, tmp_path / "out"))
        assert done.result.label_set.names == ("background", "foreground")
        assert done.result.pixels[1] == sum(int((one.label == 2).sum()) for one in scenes)
        (tmp_path / "names.txt").write_text("nothing\nroad\n")
        done = convert(Request(pair, tmp_path / "named", classes=tmp_path / "names.txt"))
        assert done.result.label_set.names == ("nothing", "road")
        copied = (tmp_path / "out/images/s0.jpg").read_bytes()
        assert copied == (pair / "s0.jpg").read_bytes(), "photos are copied as they are"

    def test_a_folder_per_class(self, tmp_path, scenes):
        source = tmp_path / "in"
        for one in scenes:
            written.write_photo(one, source / "images" / f"{one.stem}.png")
            for name, number in (("road", 2), ("car", 6)):
                (source / "masks" / name).mkdir(parents=True, exist_ok=True)
                mask = (one.label == number).astype(np.uint8) * 255
                Image.fromarray(mask).save(source / "masks" / name / f"{one.stem}.png")
        done = convert(Request(source, tmp_path / "out", format="binary"))
        assert done.result.label_set.names == ("background", "car", "road")
        assert done.result.pixels[1] == sum(int((one.label == 6).sum()) for one in scenes)

    def test_more_values_than_two(self, tmp_path, pair):
        Image.fromarray(np.full((192, 256), 128, np.uint8)).save(pair / "s1_mask.png")
        with pytest.raises(ValueError, match=r"hold 3 colours, \(0 0 0\), .*--from=color_masks"):
            convert(Request(pair, tmp_path / "out", format="binary"))


class TestRoboflow:
    def test_masks_with_their_table(self, tmp_path, scenes):
        source = tmp_path / "in"
        for split, one in zip(("train", "valid", "test"), scenes, strict=True):
            written.write_photo(one, source / split / f"{one.stem}.jpg")
            mask = np.where(one.label == 255, 0, one.label + 1).astype(np.uint8)
            Image.fromarray(mask).save(source / split / f"{one.stem}_mask.png")
            rows = [f"{number + 1}, {name}" for number, name in enumerate(NAMES)]
            (source / split / "_classes.csv").write_text(
                "\n".join(["Pixel Value, Class", "0, background", *rows])
            )
        assert formats.recognize(source) == "roboflow"
        done = convert(Request(source, tmp_path / "out"))
        assert done.result.lists == {"train": ["s0"], "val": ["s1"], "test": ["s2"]}
        assert done.result.label_set.names == ("background", *NAMES)
        label = np.asarray(Image.open(tmp_path / "out/labels/s1.png"))
        np.testing.assert_array_equal(
            label, expected_label(scenes[1].label, done.result.label_set.names)
        )

    @pytest.mark.parametrize("form", ["coco", "yolo"])
    def test_other_forms(self, tmp_path, scenes, form):
        source = tmp_path / "in"
        if form == "coco":
            for split, part in (("train", scenes[:2]), ("valid", scenes[2:])):
                written.write_coco(part, NAMES, source / split)
                (source / split / "annotations.json").rename(
                    source / split / "_annotations.coco.json"
                )
        else:
            write_yolo_splits(scenes, NAMES, source)
            text = (source / "data.yaml").read_text()
            text = text.replace("path: /somewhere/else", "roboflow: {version: 1}")
            (source / "data.yaml").write_text(text.replace("images/", "../images/"))
        assert formats.recognize(source) == "roboflow"
        done = convert(Request(source, tmp_path / "out"))
        assert {split: len(names) for split, names in done.result.lists.items()} == {
            "train": 2,
            "val": 1,
        }


class TestBoxesAndShapesWithoutArea:
    def test_boxes_of_coco(self, tmp_path, scenes):
        source = tmp_path / "in"
        written.write_coco(scenes, NAMES, source)
        path = source / "annotations.json"
        document = json.loads(path.read_text())
        for one in document["annotations"]:
            one["segmentation"] = []
            one["bbox"] = [10, 20, 30, 5]
            one["category_id"] = 1
        path.write_text(json.dumps(document))
        with pytest.raises(ValueError, match=r"no photo has a region .*have a box and no outline"):
            convert(Request(source, tmp_path / "out"))
        done = convert(Request(source, tmp_path / "out", fill_boxes=True))
        assert done.result.pixels[1] == 3 * 30 * 5

    def test_points_and_lines_are_counted(self, tmp_path, scenes):
        source = tmp_path / "in"
        written.write_labelme(scenes, NAMES, source)
        path = source / "s0.json"
        document = json.loads(path.read_text())
        document["shapes"].append({"label": "x", "shape_type": "line", "points": [[1, 1], [5, 5]]})
        document["shapes"].append({"label": "x", "shape_type": "polygon", "points": [[1, 1]]})
        circle = {"label": "circle", "shape_type": "circle", "points": [[50, 50], [60, 50]]}
        document["shapes"].append(circle)
        path.write_text(json.dumps(document))
        done = convert(Request(source, tmp_path / "out"))
        assert any("1 shapes of kind 'line' cover no area" in note for note in done.notes)
        assert any("1 outlines have fewer than 3 points" in note for note in done.notes)
        number = done.result.label_set.names.index("circle")
        assert done.result.pixels[number] == pytest.approx(np.pi * 100, rel=0.03)


def edit(path, **changes):
    """Sets members of a JSON file by dotted names."""
    document = json.loads(path.read_text())
    for name, value in changes.items():
        *parents, last = name.split("__")
        target = document
        for parent in parents:
            target = target[int(parent) if parent.isdigit() else parent]
        target[last] = value
    path.write_text(json.dumps(document))


BAD_COCO = [
    ({"annotations__0__category_id": 99}, "category_id 99 is unknown; known: 1, 2, 3"),
    ({"annotations__0__image_id": 99}, "image_id 99 names no photo of the file"),
    ({"images__0__file_name": "gone.jpg"}, r"names the photo 'gone\.jpg', and .* holds none"),
    ({"images__0__width": 640}, r"the labels are for 640x192 pixels, the photo has 256x192"),
    ({"images__0__width": "wide"}, r"expected int 'width', got str 'wide'"),
    ({"annotations__0__segmentation": [[1, 2, 3]]}, r"expected coordinates x, y, x, y"),
    ({"annotations__0__segmentation": [["a", 2, 3, 4]]}, r"expected coordinates x, y, x, y"),
    (
        {"annotations__0__segmentation": [[900, 10, 950, 10, 950, 20]]},
        r"annotation 1: 'sky' of images/s0\.png lies outside the picture \(x 900 to 950",
    ),
    (
        {"annotations__0__segmentation": {"size": [192, 256], "counts": [5, 5]}},
        "its run lengths do not fill 256x192 pixels",
    ),
    ({"categories__1__id": 1}, "category id 1 occurs twice"),
    ({"categories": 3}, "expected list 'categories', got int '3'"),
    ({"annotations__0__segments_info": []}, "panoptic COCO"),
]


@pytest.mark.parametrize(("changes", "message"), BAD_COCO)
def test_bad_coco(tmp_path, scenes, changes, message):
    source = tmp_path / "in"
    written.write_coco(scenes[:2], NAMES, source)
    edit(source / "annotations.json", **changes)
    with pytest.raises(ValueError, match=message):
        convert(Request(source, tmp_path / "out", format="coco"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "nothing is left"


def test_what_is_faulty_can_be_left_out(tmp_path, scenes):
    source = tmp_path / "in"
    written.write_coco(scenes, NAMES, source)
    edit(
        source / "annotations.json",
        annotations__0__category_id=99,
        images__2__file_name="gone.png",
        annotations__1__segmentation={"size": [192, 256], "counts": "~"},
    )
    request = Request(source, tmp_path / "out", format="coco", skip_faulty=True)
    done = convert(request)
    assert len(done.faults) == 3
    assert sum(map(len, done.result.lists.values())) == 2
    assert report(done, tmp_path / "out").count("left out: ") == 3


def test_gaps_in_ids_are_closed_and_said(tmp_path, scenes):
    source = tmp_path / "in"
    written.write_coco(scenes, NAMES, source, category_ids=[3, 5, 7, 20, 21, 22, 90])
    done = convert(Request(source, tmp_path / "out"))
    assert done.result.label_set.names == ("background", *NAMES)
    [note] = done.notes
    assert "gaps in their category ids (no 4): classes are numbered anew" in note


def test_a_photo_in_two_files(tmp_path, scenes):
    source = tmp_path / "in"
    written.write_coco(scenes, NAMES, source)
    (source / "second.json").write_text((source / "annotations.json").read_text())
    with pytest.raises(ValueError, match="annotated in another file too; give one file as --input"):
        convert(Request(source, tmp_path / "out", format="coco"))
    done = convert(Request(source / "second.json", tmp_path / "out", format="coco"))
    assert sum(map(len, done.result.lists.values())) == 3


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("9 0 0 1 0 1 1", r"s1\.txt:1: class 9 is unknown; known: 0 to 6"),
        ("0 0 0 1 0 1", r"s1\.txt:1: expected pairs x y of at least 3 points, got 5"),
        ("0 a b c d e f", r"s1\.txt:1: expected numbers"),
        ("0 0 0 100 0 100 100", r"s1\.txt:1: coordinates up to 100; expected 0 to 1"),
    ],
)
def test_bad_yolo(tmp_path, scenes, line, message):
    source = tmp_path / "in"
    write_yolo_splits(scenes, NAMES, source)
    (source / "labels/train/s1.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match=message):
        convert(Request(source, tmp_path / "out"))


def test_yolo_labels_without_a_photo(tmp_path, scenes):
    source = tmp_path / "in"
    write_yolo_splits(scenes, NAMES, source)
    (source / "labels/train/nobody.txt").write_text("0 0 0 1 0 1 1\n")
    (source / "labels/train/s1.txt").unlink()
    with pytest.raises(ValueError, match=r"nobody\.txt: names no photo"):
        convert(Request(source, tmp_path / "out"))
    done = convert(Request(source, tmp_path / "out", skip_faulty=True))
    assert any("1 photos have no region: background only" in note for note in done.notes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><track/></annotations>", "CVAT for video .*export the task again as"),
        ("<other/>", "expected <annotations>, got <other>"),
        ("nothing", "not an XML file of CVAT"),
        (
            '<!DOCTYPE a [<!ENTITY b "c">]><annotations>&b;</annotations>',
            "not an XML file of CVAT",
        ),
        (
            '<annotations><image name="s0.png" width="256" height="192">'
            '<polygon label="x" points="1,1;2,2;3,3"/></image></annotations>',
            "label 'x' is not in <labels>",
        ),
        (
            '<annotations><image name="s0.png" width="256" height="wide"/></annotations>',
            "expected a number as height of <image>, got 'wide'",
        ),
    ],
)
def test_bad_cvat(tmp_path, scenes, text, message):
    source = tmp_path / "in"
    written.write_cvat(scenes, NAMES, source)
    (source / "annotations.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        convert(Request(source, tmp_path / "out", format="cvat"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classTitle": "nobody"}, r"class 'nobody' is not in meta\.json"),
        ({"bitmap": {"origin": [0, 0], "data": "AAAA"}}, "expected a bitmap in zlib and base64"),
        ({"bitmap": None}, "expected dict 'bitmap', got nothing"),
    ],
)
def test_bad_supervisely(tmp_path, scenes, change, message):
    source = tmp_path / "in"
    written.write_supervisely(scenes, NAMES, source)
    edit(
        source / "ds0/ann/s0.png.json",
        **{f"objects__0__{key}": value for key, value in change.items()},
    )
    with pytest.raises(ValueError, match=message):
        convert(Request(source, tmp_path / "out"))


def test_holes_of_supervisely_polygons(tmp_path, scenes):
    source = tmp_path / "in"
    written.write_supervisely(scenes[:2], NAMES, source)
    polygon = {
        "classTitle": "sky",
        "geometryType": "polygon",
        "points": {
            "exterior": [[10, 10], [29, 10], [29, 19], [10, 19]],
            "interior": [[[15, 12], [20, 12], [20, 16], [15, 16]]],
        },
    }
    for stem in ("s0", "s1"):
        edit(source / f"ds0/ann/{stem}.png.json", objects=[polygon])
    done = convert(Request(source, tmp_path / "out"))
    assert done.result.pixels[1] == 2 * (20 * 10 - 6 * 5)


class TestOrientation:
    """A photo whose stored pixels lie on their side: 6 means turn clockwise to see it upright."""

    @pytest.fixture
    def write(self, tmp_path):
        def write(orientation, labelled_upright, square=False):
            height, width = (40, 40) if square else (40, 60)
            upright = np.zeros((height, width, 3), np.uint8)
            upright[:, :10] = 255
            label = np.zeros((height, width), np.uint8)
            label[:, :10] = 1
            back = {6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation]
            source = tmp_path / "in"
            exif = Image.Exif()
            exif[0x0112] = orientation
            scenes = []
            for stem in ("a", "b"):
                drawn = label
                if not labelled_upright:
                    drawn = np.asarray(Image.fromarray(label).transpose(back))
                scenes.append(written.Scene(stem, upright, drawn))
            written.write_coco(scenes, ("none", "edge"), source)
            for stem in ("a", "b"):
                stored = Image.fromarray(upright).transpose(back)
                stored.save(source / "images" / f"{stem}.png", exif=exif)
            return source

        return write

    def check(self, target):
        dataset = folder.open_split(target, "train")
        image, label = dataset.read(0)
        assert dataset.notes(0) == []
        np.testing.assert_array_equal(image[:, :, 0] == 255, label == 2)
        assert (label[:, :10] == 2).all()

    @pytest.mark.parametrize("labelled_upright", [True, False])
    def test_photo_and_mask_are_both_turned(self, tmp_path, write, labelled_upright):
        done = convert(Request(write(6, labelled_upright), tmp_path / "out"))
        assert done.result.turned == 2
        self.check(tmp_path / "out")

    @pytest.mark.parametrize(
        ("orientation", "square", "labelled_upright"),
        [(3, False, True), (3, False, False), (6, True, True), (6, True, False)],
    )
    def test_what_sizes_do_not_tell_is_asked(
        self, tmp_path, write, orientation, square, labelled_upright
    ):
        source = write(orientation, labelled_upright, square=square)
        with pytest.raises(ValueError, match=r"and both sizes are equal.*--orientation=upright"):
            convert(Request(source, tmp_path / "out"))
        chosen = Orientation.UPRIGHT if labelled_upright else Orientation.STORED
        convert(Request(source, tmp_path / "out", orientation=chosen))
        self.check(tmp_path / "out")

    def test_a_size_that_is_neither_is_refused(self, tmp_path, write):
        source = write(6, labelled_upright=True)
        with pytest.raises(ValueError, match=r"labels are for 60x40 pixels, the photo has 40x60"):
            convert(Request(source, tmp_path / "out", orientation=Orientation.STORED))


class TestSplits:
    @pytest.fixture
    def many(self, tmp_path):
        tiny = [
            written.Scene(
                f"drive{n // 4} {n}", np.zeros((8, 8, 3), np.uint8), np.eye(8, dtype=np.uint8)
            )
            for n in range(16)
        ]
        written.write_labelme(tiny, ("a", "b"), tmp_path / "in")
        return tmp_path / "in"

    def test_groups_are_not_divided(self, tmp_path, many):
        done = convert(Request(many, tmp_path / "out", group_by=r"drive\d"))
        assert {name: len(names) for name, names in done.result.lists.items()} == {
            "train": 12,
            "val": 4,
        }
        assert len({name.split("_")[0] for name in done.result.lists["val"]}) == 1
        dataset = folder.open_split(tmp_path / "out", "train")
        assert len(set(dataset.groups(len(dataset)))) == 3

    def test_groups_of_a_file(self, tmp_path, many):
        lines = [
            f"{path.stem.replace(' ', '_')} g{i % 2}\n"
            for i, path in enumerate(sorted(many.glob("*.png")))
        ]
        (tmp_path / "groups.txt").write_text("".join(lines))
        request = Request(many, tmp_path / "out", groups=tmp_path / "groups.txt")
        done = convert(request)
        assert sorted(map(len, done.result.lists.values())) == [8, 8]
        (tmp_path / "groups.txt").write_text("".join(lines[:-1]))
        with pytest.raises(ValueError, match=r"groups\.txt: no group for drive3"):
            convert(Request(many, tmp_path / "o2", groups=tmp_path / "groups.txt"))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"group_by": "drive"}, "photos of 1 group cannot be divided"),
            ({"group_by": "("}, "not a regular expression"),
            ({"group_by": "nobody"}, "does not match"),
            ({"validation_share": 1.5}, "expected a number between 0 and 1"),
        ],
    )
    def test_bad_groups(self, tmp_path, many, options, message):
        with pytest.raises(ValueError, match=message):
            convert(Request(many, tmp_path / "out", **options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: {"input": path / "gone"}, "gone: no such file or folder"),
        (lambda path: {"input": path / "empty"}, "its format was not recognized; give --from"),
        (lambda path: {"output": path / "in"}, "exists and is not empty"),
        (lambda path: {"output": path / "no/where"}, "no: no such folder; create it"),
        (lambda path: {"ignored_classes": ("nobody",)}, "--ignored_classes: no class 'nobody'"),
        (lambda path: {"images": path / "gone"}, "gone: no such folder"),
    ],
)
def test_bad_requests(tmp_path, scenes, make, message):
    written.write_labelme(scenes[:2], NAMES, tmp_path / "in")
    (tmp_path / "empty").mkdir()
    options = {"input": tmp_path / "in", "output": tmp_path / "out"} | make(tmp_path)
    with pytest.raises((ValueError, OSError), match=message):
        convert(Request(**options))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "in"]

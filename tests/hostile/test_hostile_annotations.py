"""Label files of other programs that are damaged, endless or huge: one line, nothing written."""

import base64
import json
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.convert.conversion import Request, convert
from deeplab_tf.data.convert.formats import recognize
from deeplab_tf.data.convert.rasterizer import LONGEST_OUTLINE, place_fault
from deeplab_tf.data.convert.regions import ClassName, Polygon
from deeplab_tf.data.convert.source import LARGEST_PHOTO_JSON_BYTES
from tests.hostile import files
from tests.hostile.commands import watch

SIZE = (24, 32)
HUGE = 10**300
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")


def photo(folder, name="a.png"):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(path)


def refused(folder, form, words, **how):
    """Converts a folder; returns the one line, and checks that nothing was written."""
    output = folder.parent / f"{folder.name}-out"
    before = sorted(folder.parent.rglob("*"))
    started = time.monotonic()
    with pytest.raises((ValueError, OSError), match=words):
        convert(Request(folder, output, format=form, **how))
    assert time.monotonic() - started < 10
    assert sorted(folder.parent.rglob("*")) == before


def coco(folder, **changes):
    document = {
        "images": [
            {"id": number, "file_name": f"{name}.png", "height": SIZE[0], "width": SIZE[1]}
            for number, name in enumerate("ab", 1)
        ],
        "categories": [{"id": 1, "name": "road"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [BOX]}],
    }
    for key, value in changes.items():
        entry = document[key]
        document[key] = [entry[0] | value, *entry[1:]] if isinstance(value, dict) else value
    photo(folder)
    photo(folder, "b.png")
    (folder / "annotations.json").write_text(json.dumps(document))


BOX = [2, 2, 9, 2, 9, 9, 2, 9]
RUNS = {"size": list(SIZE), "counts": [0, SIZE[0] * SIZE[1]]}


def test_the_coco_file_that_the_others_are_made_from(tmp_path):
    coco(tmp_path / "in")
    convert(Request(tmp_path / "in", tmp_path / "out", format="coco", validation_share=0.5))
    assert (tmp_path / "out" / "classes.txt").is_file()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"images": None}, "expected list 'images', got nothing"),
        ({"images": [None]}, "expected int 'id', got nothing"),
        ({"images": {"height": HUGE}}, "the labels are for"),
        ({"images": {"width": 1e308}}, "the labels are for"),
        ({"images": {"height": True}}, "expected int 'height', got bool"),
        ({"images": {"file_name": "../../../etc/passwd"}}, "holds none of that name"),
        ({"images": {"file_name": "a.png\0"}}, "holds none of that name"),
        ({"images": {"file_name": "x" * 100_000}}, "holds none of that name"),
        ({"categories": {"name": "road\nsky 1 2 3"}}, "expected a name of 1 to 256 characters"),
        ({"categories": {"name": "\x1b[2J"}}, "expected a name of 1 to 256 characters"),
        ({"categories": {"name": "\ud800"}}, "expected a name of 1 to 256 characters"),
        ({"categories": {"name": " "}}, "expected a name of 1 to 256 characters"),
        ({"categories": {"name": "x" * 1000}}, "expected a name of 1 to 256 characters"),
        ({"annotations": {"category_id": [1]}}, "expected int 'category_id', got list"),
        ({"annotations": {"segmentation": [[HUGE] * 8]}}, "reaches far outside|lies outside"),
        ({"annotations": {"segmentation": [["x"] * 8]}}, "expected coordinates"),
        ({"annotations": {"segmentation": [[{}] * 8]}}, "expected coordinates"),
        ({"annotations": {"segmentation": [[[[1]]] * 2]}}, "expected coordinates"),
        ({"annotations": {"segmentation": [[10**400] * 8]}}, "expected coordinates"),
        ({"annotations": {"segmentation": RUNS | {"size": [HUGE, 2]}}}, "expected two whole"),
        ({"annotations": {"segmentation": RUNS | {"size": "24"}}}, "expected"),
        ({"annotations": {"segmentation": RUNS | {"size": [1, 2, 3, 4]}}}, "expected two whole"),
        ({"annotations": {"segmentation": RUNS | {"size": [2**30] * 2}}}, "reaches far outside"),
        ({"annotations": {"segmentation": RUNS | {"counts": [HUGE]}}}, "do not fill"),
        ({"annotations": {"segmentation": RUNS | {"counts": [-1, 769]}}}, "do not fill"),
        ({"annotations": {"segmentation": RUNS | {"counts": [0.5]}}}, "expected whole numbers"),
        ({"annotations": {"segmentation": RUNS | {"counts": "o" * 99}}}, "its run lengths"),
        ({"annotations": {"segmentation": RUNS | {"counts": "\u2028"}}}, "which is no code"),
    ],
)
def test_strange_values_in_coco(tmp_path, changes, words):
    coco(tmp_path / "in", **changes)
    refused(tmp_path / "in", "coco", words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a JSON file"),
        ("\0" * 10_000, "not a JSON file"),
        ("[" * 200_000, "nested too deeply"),
        ('{"categories": NaN}', "expected a finite number, got NaN"),
        ('{"categories": 1' + "0" * 5000 + "}", "not a JSON file"),
        ("[]", "expected list 'categories'"),
    ],
)
def test_json_that_is_none(tmp_path, text, words):
    photo(tmp_path / "in")
    path = tmp_path / "in" / "annotations.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        convert(Request(path, tmp_path / "out", format="coco"))
    assert not (tmp_path / "out").exists()


def test_gigabytes_are_refused_unread(tmp_path):
    folder = tmp_path / "in"
    photo(folder)
    path = files.sparse(folder / "a.json", 1_900_000_000, b"")
    tracemalloc.start()
    for form in ("coco", "labelme"):
        refused(folder, form, "not a JSON file")
    files.sparse(path, LARGEST_PHOTO_JSON_BYTES + 1, b'{"shapes": [')
    refused(folder, "labelme", "expected at most 512,000,000 bytes")
    path.unlink()
    files.sparse(folder / "a.xml", 10**12, b"<annotations><meta>")
    refused(folder, "cvat", "expected at most 1,000,000,000 bytes")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def labelme(folder, **changes):
    document = {
        "version": "5",
        "imagePath": "a.png",
        "imageData": None,
        "imageHeight": SIZE[0],
        "imageWidth": SIZE[1],
        "shapes": [{"label": "road", "points": [[2, 2], [9, 2], [9, 9]], "shape_type": "polygon"}],
    }
    for key, value in changes.items():
        document[key] = value if key in document else None
        if key not in ("imagePath", "imageData", "imageHeight", "shapes"):
            document["shapes"][0][key] = value
    photo(folder)
    photo(folder, "other.png")
    (folder / "a.json").write_text(json.dumps(document))
    second = document | {"imagePath": "other.png", "shapes": [], "imageHeight": SIZE[0]}
    (folder / "b.json").write_text(json.dumps(second))


def bomb(side=30_000):
    """A PNG of 1 KB that says that it is huge."""
    return base64.b64encode(png_header(side, side)).decode()


def png_header(width, height):
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content = b"\x89PNG\r\n\x1a\n"
    for body in (b"IHDR" + size + b"\x08\0\0\0\0", b"IDAT" + b"\0" * 8):
        length = (len(body) - 4).to_bytes(4, "big")
        content += length + body + zlib.crc32(body).to_bytes(4, "big")
    return content


MASK = {"shape_type": "mask", "points": [[0, 0], [31, 23]]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shapes": 3}, "expected list 'shapes', got int"),
        ({"shapes": [None]}, "expected str 'label'"),
        ({"imageHeight": HUGE}, "the labels are for"),
        ({"imageHeight": "24"}, "expected int 'imageHeight', got str"),
        ({"imagePath": 7}, "expected str 'imagePath'"),
        ({"imagePath": "b.png", "imageData": "%"}, "not a readable picture"),
        ({"imagePath": "b.png", "imageData": [1]}, "expected str 'imageData'"),
        ({"imagePath": "b.png", "imageData": bomb()}, "picture larger than 89478485 pixels"),
        ({"points": [[1e308, 1], [2, 2], [1e400, 3]]}, "not a JSON file|no numbers|outside"),
        ({"shape_type": "circle", "points": [[1, 1], [1e308, -1e308]]}, "no numbers|outside"),
        ({"shape_type": ["polygon"]}, "no labelled region in it"),
        (MASK | {"mask": "A"}, "expected base64|not a readable picture"),
        (MASK | {"mask": bomb()}, "picture larger than 89478485 pixels"),
        (MASK | {"mask": bomb(8000)}, "reaches far outside the picture"),
        (MASK | {"mask": bomb(24)}, "not a readable picture|its bitmap"),
        (
            MASK | {"mask": bomb(24), "points": [[1e30, 1e30], [2e30, 2e30]]},
            "expected two whole numbers",
        ),
    ],
)
def test_strange_values_in_labelme(tmp_path, changes, words):
    labelme(tmp_path / "in", **changes)
    refused(tmp_path / "in", "labelme", words)


CVAT = """<?xml version="1.0"?>{before}
<annotations><meta><task><labels><label><name>{label}</name></label></labels></task></meta>
<image id="0" name="a.png" width="{width}" height="24">{shapes}</image>
<image id="1" name="b.png" width="32" height="24"></image></annotations>
"""
POLYGON = '<polygon label="road" points="2,2;9,2;9,9" {}/>'


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"width": "inf"}, "expected a whole number as width of <image>, got inf"),
        ({"width": "nan"}, "expected a whole number as width of <image>, got nan"),
        ({"width": "1e300"}, "expected a whole number as width"),
        ({"width": "9" * 10_000}, "expected a whole number as width"),
        ({"label": "a&#10;b"}, "expected a name of 1 to 256 characters"),
        ({"shapes": POLYGON.format('z_order="inf"')}, "expected a whole number as z_order"),
        ({"shapes": '<polygon label="road" points="nan,1;2,2;3,3"/>'}, "no numbers"),
        ({"shapes": '<polygon label="road" points="1e999,1;2,2;3,3"/>'}, "no numbers"),
        ({"shapes": '<polygon label="road"/>'}, "no photo has a region"),
        (
            {"shapes": '<ellipse label="road" cx="3" cy="3" rx="2" ry="2" rotation="inf"/>'},
            "math domain error|no numbers",
        ),
        (
            {"shapes": '<box label="road" xtl="1" ytl="1" xbr="5" ybr="5" rotation="inf"/>'},
            "no numbers",
        ),
        (
            {"shapes": '<mask label="road" left="inf" top="0" width="2" height="2" rle="4"/>'},
            "expected a whole number as left of <mask>",
        ),
        (
            {"shapes": '<mask label="road" left="0" top="0" width="-2" height="2" rle="4"/>'},
            "lies outside the picture",
        ),
        (
            {"shapes": '<mask label="road" left="0" top="0" width="2" height="2" rle="9,9,9"/>'},
            "do not fill",
        ),
        (
            {"before": '<!DOCTYPE a [<!ENTITY x "y">]>'},
            r"not an XML file of CVAT \(DTDForbidden",
        ),
        ({"shapes": "<polygon>" * 100_000}, "not an XML file of CVAT"),
        ({"shapes": "\0"}, "not an XML file of CVAT"),
    ],
)
def test_strange_values_in_cvat(tmp_path, values, words):
    photo(tmp_path / "in")
    photo(tmp_path / "in", "b.png")
    defaults = {"before": "", "label": "road", "width": 32, "shapes": POLYGON.format("")}
    (tmp_path / "in" / "a.xml").write_text(CVAT.format(**defaults | values))
    refused(tmp_path / "in", "cvat", words)


def test_entities_that_grow_are_refused(tmp_path):
    """A billion laughs in 1 KB; and one that reads a file."""
    photo(tmp_path / "in")
    laughs = "".join(
        f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' if n else '<!ENTITY l0 "ha">' for n in range(10)
    )
    for entities in (laughs, '<!ENTITY l9 SYSTEM "file:///etc/passwd">'):
        text = CVAT.format(before=f"<!DOCTYPE a [{entities}]>", label="&l9;", width=32, shapes="")
        (tmp_path / "in" / "a.xml").write_text(text)
        refused(tmp_path / "in", "cvat", "DTDForbidden")


def test_deep_xml_ends(tmp_path):
    photo(tmp_path / "in")
    deep = "<a>" * 200_000 + "</a>" * 200_000
    (tmp_path / "in" / "a.xml").write_text(
        CVAT.format(before="", label="road", width=32, shapes=deep)
    )
    refused(tmp_path / "in", "cvat", "not in <labels>|no photo has a region|not an XML")


def yolo(folder, names="names: [road]", line="0 0.1 0.1 0.5 0.1 0.5 0.5"):
    photo(folder, "images/train/a.png")
    photo(folder, "images/train/b.png")
    (folder / "labels" / "train").mkdir(parents=True, exist_ok=True)
    (folder / "labels" / "train" / "a.txt").write_text(f"{line}\n")
    (folder / "data.yaml").write_text(f"train: images/train\n{names}\n")


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (f"{LAUGHS}names: *a11", "expected text as a name of a class, got a list"),
        ("names: &n [*n]", "expected text as a name|not a YAML file"),
        ("names: {0: road, 4000000000000: sky}", "expected names, a list or"),
        ("names: {-1: road}", "expected names, a list or"),
        ("names: {true: road}", "expected names, a list or"),
        ("names: !!python/object/apply:os.system [ls]", "not a YAML file"),
        ("names: !!timestamp x", "not a YAML file"),
        ("names: !!int ''", "not a YAML file"),
        ("names: !!float x", "not a YAML file"),
        ("names: !!bool x", "not a YAML file"),
        ("names: " + "[" * 5000, "not a YAML file"),
        ('names: ["a\\nb"]', "expected a name of 1 to 256 characters"),
        ("names: [road]\nval: {a: b}", "expected a path, or a list of paths, as val"),
        (f"names: [road]\nval: {'x' * 300}", "which is not below|File name too long"),
        ("names: [road]\n" + "#" * 1_000_000, "expected at most 1,000,000 bytes"),
    ],
)
def test_strange_values_in_yaml(tmp_path, names, words):
    yolo(tmp_path / "in", names)
    refused(tmp_path / "in", "yolo", words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("inf 0.1 0.1 0.5 0.1 0.5 0.5", "class inf is unknown"),
        ("nan 0.1 0.1 0.5 0.1 0.5 0.5", "class nan is unknown"),
        ("1e300 0.1 0.1 0.5 0.1 0.5 0.5", "is unknown"),
        ("0 nan 0.1 0.5 0.1 0.5 0.5", "coordinates that are no numbers"),
        ("0 1e300 0.1 0.5 0.1 0.5 0.5", "coordinates up to 1e"),
        ("0 0.1 0.1 0.5", "expected pairs"),
        ("0 " + " ".join(["0 0 2 2"] * 300_000), "has outlines of|lies outside|reaches far"),
    ],
)
def test_strange_lines_of_yolo(tmp_path, line, words):
    yolo(tmp_path / "in", line=line)
    refused(tmp_path / "in", "yolo", words)


def supervisely(folder, **changes):
    one = {
        "classTitle": "road",
        "geometryType": "bitmap",
        "bitmap": {"origin": [0, 0], "data": packed(png_header(8, 8))},
    }
    photo(folder, "ds/img/a.png")
    photo(folder, "ds/img/b.png")
    (folder / "ds" / "ann").mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").write_text(json.dumps({"classes": [{"title": "road"}]}))
    size = {"height": SIZE[0], "width": SIZE[1]}
    for name, objects in (("a", [one | changes]), ("b", [])):
        path = folder / "ds" / "ann" / f"{name}.png.json"
        path.write_text(json.dumps({"size": size, "objects": objects}))


def packed(content):
    return base64.b64encode(zlib.compress(content)).decode()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "not a readable picture|its bitmap"),
        ({"bitmap": {"origin": [], "data": ""}}, "expected two whole numbers"),
        ({"bitmap": {"origin": [1e300, 0], "data": ""}}, "expected two whole numbers"),
        ({"bitmap": {"origin": None, "data": ""}}, "expected"),
        ({"bitmap": {"origin": [0, 0], "data": "A"}}, "expected a bitmap in zlib and base64"),
        ({"bitmap": {"origin": [0, 0], "data": packed(bytes(2**28 + 1))}}, "unpacks to more than"),
        ({"bitmap": {"origin": [0, 0], "data": packed(png_header(9**5, 9**5))}}, "larger than"),
        ({"geometryType": ["bitmap"]}, "no photo has a region"),
        ({"geometryType": "polygon", "points": {"exterior": BOX, "interior": 5}}, "expected list"),
        (
            {"geometryType": "polygon", "points": {"exterior": BOX, "interior": [[HUGE] * 8]}},
            "reaches far outside",
        ),
        (
            {"geometryType": "polygon", "points": {"exterior": BOX, "interior": [["nan"] * 8]}},
            "no numbers|expected coordinates",
        ),
    ],
)
def test_strange_values_in_supervisely(tmp_path, changes, words):
    supervisely(tmp_path / "in", **changes)
    refused(tmp_path / "in", "supervisely", words)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("Value, Class\n99999999999999999999, road\n", "a mask holds no"),
        ("Value, Class\n-1, road\n", "a mask holds no"),
        ("Value, Class\nx, road\n", "expected `value, class`"),
        (f'Value, Class\n0, "{"x" * 200_000}"\n', "not a CSV file"),
        ("Value, Class\n", "names no class"),
    ],
)
def test_strange_tables_of_roboflow(tmp_path, table, words):
    photo(tmp_path / "in" / "train")
    (tmp_path / "in" / "train" / "_classes.csv").write_text(table)
    refused(tmp_path / "in", "roboflow", words)


def test_damaged_masks_are_recognized_as_nothing_and_named(tmp_path):
    folder = tmp_path / "in"
    photo(folder, "images/a.png")
    (folder / "masks").mkdir()
    mask = folder / "masks" / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), np.uint8)).save(mask)
    whole = mask.read_bytes()
    for end in (40, 60, len(whole) // 2):
        mask.write_bytes(whole[:end])
        assert recognize(folder) is None
        for form in ("color_masks", "binary"):
            refused(folder, form, "not a readable picture")
    (folder / "class_dict.csv").write_text("name,r,g,b\n" + '"' + "x" * 200_000 + '",1,2,3\n')
    refused(folder, "color_masks", "not a readable picture|not a CSV file")


def test_outlines_as_long_as_the_memory_are_refused():
    """The rasterizer takes memory and time for each pixel along an outline."""
    zigzag = np.tile([[0.0, 0.0], [5000.0, 5000.0]], (3000, 1))
    fault = place_fault(Polygon((zigzag,)), (5000, 5000))
    assert fault.startswith("has outlines of 3e+07 pixels, expected at most 1e+07")
    teeth = np.stack([np.arange(5000.0), np.arange(5000) % 2 * 1000.0], 1)
    assert place_fault(Polygon((teeth,)), (5000, 5000)) == ""
    assert LONGEST_OUTLINE > 5000 * 1000


def test_a_hole_with_impossible_coordinates_is_a_fault():
    """The rasterizer was given them unchecked, and would write outside its memory."""
    outline = np.array([[1.0, 1], [9, 1], [9, 9]])
    for value in (1e300, -1e300, np.nan, np.inf):
        assert place_fault(Polygon((outline,), (outline * value,)), SIZE)


@pytest.mark.parametrize("name", ["road", "Straße", "道路", "a b", "x" * 256])
def test_names_of_all_languages_pass(name):
    assert ClassName(name).name == name


def test_a_command_ends_with_one_line_and_bounded_memory(tmp_path):
    """700 MB of JSON brackets: more lists than the memory holds, if it had no limit."""
    folder = tmp_path / "in"
    photo(folder)
    (folder / "a.json").write_bytes(b'{"categories": [' + b"[]," * 3_000_000 + b"[]]}")
    done = watch(
        tmp_path,
        "deeplab_tf.data.convert",
        "--from=coco",
        f"--input={folder}",
        f"--output={tmp_path / 'work' / 'out'}",
    )
    assert done.status == 1
    assert "expected int 'id', got nothing" in done.line
    assert done.peak_mb < 1000
    assert not done.files
    assert not done.left

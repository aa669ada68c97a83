"""Files that the programs themselves wrote (`foreign_writers.py`), against the masks they are of.

LabelMe 6.3.1, supervision 0.31.2 (Roboflow's library), Datumaro 1.13.12 (by CVAT's authors) and
Supervisely's SDK 6.74.51, from two drawn scenes.
"""

import pathlib

import numpy as np
import pytest
from PIL import Image

from deeplab_tf.data.convert.conversion import Request, convert
from deeplab_tf.data.convert.formats import recognize
from deeplab_tf.data.convert.regions import Vertices

FILES = pathlib.Path(__file__).parent / "files"
NAMES = (FILES / "classes.txt").read_text().split()

# folder: (format, what coordinates mean, smallest share of equal pixels)
CASES = {
    "labelme_polygon": ("labelme", None, 1.0),
    "labelme_mask": ("labelme", None, 1.0),
    "datumaro_cvat_polygon": ("cvat", None, 1.0),
    "datumaro_cvat_mask": ("cvat", None, 1.0),
    "datumaro_coco_instances_polygon": ("coco", None, 1.0),
    "datumaro_coco_instances_mask": ("coco", None, 1.0),
    "supervisely_bitmap": ("supervisely", None, 1.0),
    # Outlines through pixels lose what is one pixel wide.
    "supervisely_polygon": ("supervisely", None, 0.98),
    # It leaves out what has fewer than three points.
    "supervision_coco": ("coco", Vertices.PIXELS, 0.99),
    "supervision_yolo": ("yolo", Vertices.PIXELS, 0.99),
}


@pytest.mark.parametrize("name", CASES)
def test_masks_come_back(tmp_path, name):
    kind, vertices, bound = CASES[name]
    assert recognize(FILES / name) == kind
    request = Request(
        FILES / name, tmp_path / "out", format=kind, images=FILES / "photos", vertices=vertices
    )
    done = convert(request)
    classes = done.result.label_set.names
    equal = []
    for path in sorted((FILES / "labels").iterdir()):
        original = np.asarray(Image.open(path))
        table = np.full(256, classes.index("background"), np.uint8)
        for number, one in enumerate(NAMES):
            table[number] = classes.index(one) if one in classes else 0
        converted = np.asarray(Image.open(tmp_path / "out/labels" / path.name))
        equal.append((converted == table[original]).mean())
    assert len(equal) == 2
    assert np.mean(equal) >= bound


def test_colour_masks_with_a_label_map(tmp_path):
    request = Request(
        FILES / "datumaro_voc_segmentation_mask",
        tmp_path / "out",
        images=FILES / "photos",
        masks=FILES / "datumaro_voc_segmentation_mask/SegmentationClass",
    )
    done = convert(request)
    assert done.format == "color_masks"
    assert done.result.label_set.names == ("background", *NAMES)
    for path in sorted((FILES / "labels").iterdir()):
        original = np.asarray(Image.open(path))
        converted = np.asarray(Image.open(tmp_path / "out/labels" / path.name))
        np.testing.assert_array_equal(converted, np.where(original == 255, 0, original + 1))


@pytest.mark.parametrize("name", ["supervision_coco", "supervision_yolo"])
def test_outlines_of_opencv_are_noticed(tmp_path, name):
    request = Request(FILES / name, tmp_path / "out", images=FILES / "photos")
    done = convert(request)
    assert any("--vertices=pixels" in note for note in done.notes)
    polygons = Request(FILES / "labelme_polygon", tmp_path / "o2", images=FILES / "photos")
    assert not any("--vertices" in note for note in convert(polygons).notes)

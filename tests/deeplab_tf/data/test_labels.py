import numpy as np
import pytest

from deeplab_tf.data.label_list import read_label_list
from deeplab_tf.data.labels import LabelSet, voc_colormap

# First entries of the table that the development kit prints (VOClabelcolormap.m), and its last.
VOC_COLORS = {
    0: (0, 0, 0),
    1: (128, 0, 0),
    2: (0, 128, 0),
    3: (128, 128, 0),
    4: (0, 0, 128),
    8: (64, 0, 0),
    15: (192, 128, 128),
    20: (0, 64, 128),
    255: (224, 224, 192),
}


def test_voc_colormap_is_the_published_table():
    colors = voc_colormap(256)
    assert {index: colors[index] for index in VOC_COLORS} == VOC_COLORS
    assert len(set(colors)) == 256


def test_from_names_gives_each_class_a_colour():
    labels = LabelSet.from_names(["sky", "sea"])
    assert (labels.num_classes, labels.names, labels.colors) == (
        2,
        ("sky", "sea"),
        ((0, 0, 0), (128, 0, 0)),
    )


def test_colorize_paints_classes_and_the_rest_in_the_colour_of_index_255():
    labels = LabelSet(("sky", "sea"), ((9, 8, 7), (1, 2, 3)))
    painted = labels.colorize(np.array([[0, 1, 255], [2, -1, 256]], np.int64))
    assert painted.dtype == np.uint8
    assert painted.tolist() == [
        [[9, 8, 7], [1, 2, 3], [224, 224, 192]],
        [[224, 224, 192], [224, 224, 192], [224, 224, 192]],
    ]
    # The development kit's own colour map, so no class of it can be taken for ignored.
    assert voc_colormap(256)[255] == (224, 224, 192)


def test_no_class_is_refused():
    with pytest.raises(ValueError, match="at least one class"):
        LabelSet((), ())


def test_class_255_is_taken_by_the_ignored_label():
    assert LabelSet.from_names([str(i) for i in range(255)]).num_classes == 255
    with pytest.raises(ValueError, match=r"expected at most 255 classes, because .* got 256"):
        LabelSet.from_names([str(i) for i in range(256)])


def test_each_class_needs_a_colour():
    with pytest.raises(ValueError, match="got 2 names and 1 colours"):
        LabelSet(("sky", "sea"), ((0, 0, 0),))


def test_an_empty_line_between_two_names_is_refused(tmp_path):
    """It would shift all later names by one class."""
    path = tmp_path / "labels.txt"
    path.write_text("sky\n\nroad\n")
    with pytest.raises(ValueError, match=r"labels.txt: label 2: expected a name, got an empty"):
        read_label_list(path)
    path.write_text("sky\nroad\n\n")
    assert read_label_list(path) == ("sky", "road")

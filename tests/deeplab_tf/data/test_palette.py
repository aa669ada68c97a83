"""Colours of classes: published ones first, and far apart for every reader."""

import numpy as np
import pytest

from deeplab_tf.data.labels import voc_colormap
from deeplab_tf.data.palette import OKABE_ITO, VISIONS, as_seen, distances, distinct_colors


def closest(colors, vision=None):
    """Distance of the two colours that are hardest to tell apart."""
    colors = np.asarray(colors)
    if vision is None:
        apart = distances(colors, colors)
    else:
        seen = as_seen(colors, vision)
        apart = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
    return apart[~np.eye(len(colors), dtype=bool)].min()


def test_lightness_and_chroma_are_those_of_the_standard():
    # Published values of white, red and blue in Oklab.
    seen = as_seen(np.array([(255, 255, 255), (255, 0, 0), (0, 0, 255)]), VISIONS[0])
    expected = [(1, 0, 0), (0.628, 0.2249, 0.1258), (0.452, -0.0325, -0.3115)]
    np.testing.assert_allclose(seen, expected, atol=1e-3)


def test_who_lacks_green_cones_confuses_red_and_green_of_one_lightness():
    red, green = np.array([(200, 60, 60)]), np.array([(110, 120, 40)])
    apart = [np.linalg.norm(as_seen(red, v) - as_seen(green, v)) for v in VISIONS]
    assert apart[2] < apart[0] / 3


def test_a_longer_palette_begins_with_the_shorter_one():
    assert distinct_colors(5) == OKABE_ITO[:5]
    assert distinct_colors(40)[:12] == distinct_colors(12)
    assert distinct_colors(40)[:7] == OKABE_ITO
    assert len(set(distinct_colors(256))) == 256


@pytest.mark.parametrize(("count", "least"), [(7, 0.07), (21, 0.07), (40, 0.05)])
def test_every_reader_tells_the_colours_apart(count, least):
    # 0.02 is just noticeable side by side.
    assert closest(distinct_colors(count)) > least


def test_they_are_farther_apart_than_the_usual_ones():
    for count in (11, 21):
        for vision in VISIONS[1:]:
            usual = closest(voc_colormap(count), vision)
            assert closest(distinct_colors(count), vision) > 3 * usual

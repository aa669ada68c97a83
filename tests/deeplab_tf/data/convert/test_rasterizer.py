"""Shapes become pixels by stated rules; expected pixels are by hand or by another library."""

import io
import re

import numpy as np
import pytest
from matplotlib.path import Path
from PIL import Image
from pycocotools import mask as coco_mask

from deeplab_tf.data.convert.rasterizer import (
    Outcome,
    area_of,
    bounds,
    draw_mask,
    draw_regions,
    leaves_picture,
    place_fault,
)
from deeplab_tf.data.convert.regions import (
    Bitmap,
    Ellipse,
    MaskFile,
    Overlaps,
    Polygon,
    Region,
    RunLengths,
    Vertices,
)

SIZE = (40, 60)


def fill(shape, size):
    """The pixels of a shape in the whole picture."""
    area = area_of(shape, size)
    inside = np.zeros(size, bool)
    assert inside[area.window].shape == area.inside.shape
    inside[area.window] = area.inside
    return inside


def square(left, top, right, bottom):
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def centers_inside(points, size=SIZE):
    """Pixels whose centres matplotlib finds inside."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    centers = np.stack([columns.ravel() + 0.5, rows.ravel() + 0.5], 1)
    return Path(points).contains_points(centers).reshape(size)


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


@pytest.mark.parametrize("seed", range(5))
def test_a_pixel_belongs_to_the_outline_around_its_centre(seed):
    random = np.random.default_rng(seed)
    angles = np.sort(random.uniform(0, 2 * np.pi, 12))
    radii = random.uniform(5, 25, 12)
    points = np.stack([30 + radii * np.cos(angles), 20 + radii * np.sin(angles)], 1)
    expected = centers_inside(points)
    found = fill(Polygon((points,)), SIZE)
    # pycocotools walks the edges in steps of a fifth of a pixel
    assert (found != expected).sum() <= 0.02 * expected.sum()


def test_corners_of_pixels_are_exact():
    expected = np.zeros(SIZE, bool)
    expected[5:12, 10:30] = True
    np.testing.assert_array_equal(fill(Polygon((square(10, 5, 30, 12),)), SIZE), expected)


def test_pixel_indices_include_the_outline():
    """As OpenCV's contour of rows 5 to 11 and columns 10 to 29."""
    expected = np.zeros(SIZE, bool)
    expected[5:12, 10:30] = True
    for rounding in (0, 0.001, -0.001):  # YOLO's digits
        outline = square(10, 5, 29, 11) + rounding
        polygon = Polygon((outline,), vertices=Vertices.PIXELS)
        np.testing.assert_array_equal(fill(polygon, SIZE), expected)


@pytest.mark.parametrize("vertices", Vertices)
def test_holes_are_taken_out_of_all_outlines(vertices):
    rings = (square(0, 0, 20, 20), square(30, 0, 50, 20))
    polygon = Polygon(rings, (square(5, 5, 15, 15),), vertices=vertices)
    inside = fill(polygon, SIZE)
    assert inside[2, 2]
    assert inside[2, 40]
    assert not inside[10, 10]
    assert not inside[2, 25]


def test_a_hole_cut_open_along_a_line_is_a_hole():
    """YOLO's way to write holes."""
    outline = np.concatenate(
        [square(0, 0, 30, 30), [[0, 0]], square(10, 10, 20, 20)[::-1], [[10, 20]], [[0, 0]]]
    )
    inside = fill(Polygon((outline,)), SIZE)
    assert inside[5, 25]
    assert not inside[15, 15]


def test_parts_outside_are_cut_off():
    inside = fill(Polygon((square(-10, -10, 10, 10),)), SIZE)
    assert inside[:10, :10].all()
    assert inside.sum() == 100


def test_ellipse_has_its_area_and_turns_clockwise():
    inside = fill(Ellipse((30, 20), (20, 5), degrees=90), SIZE)
    assert inside.sum() == pytest.approx(np.pi * 20 * 5, rel=0.02)
    assert inside[5, 30]
    assert not inside[20, 15]
    tilted = fill(Ellipse((30, 20), (15, 2), degrees=45), SIZE)
    assert tilted[28, 38], "down and to the right"
    assert not tilted[12, 38]


@pytest.mark.parametrize("compressed", [True, False])
def test_run_lengths_down_the_columns(compressed):
    expected = np.random.default_rng(0).random(SIZE) > 0.6
    if compressed:
        counts = coco_mask.encode(np.asfortranarray(expected, np.uint8))["counts"].decode()
    else:
        flat = np.concatenate([[0], expected.ravel(order="F"), [2]]).astype(int)
        counts = tuple(np.diff([0, *np.flatnonzero(np.diff(flat))]).tolist())
    np.testing.assert_array_equal(fill(RunLengths(counts, SIZE), SIZE), expected)


def test_run_lengths_along_the_rows_of_a_box():
    """Rows of 3: outside 1, inside 3, outside 2 -> the last two of row 0, the first of row 1."""
    runs = RunLengths((1, 3, 2), (2, 3), left=7, top=4, by_columns=False)
    expected = np.zeros(SIZE, bool)
    expected[4, 8:10] = expected[5, 7] = True
    np.testing.assert_array_equal(fill(runs, SIZE), expected)


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (RunLengths((5, 5), SIZE), "do not fill 60x40 pixels .*sum up to 10"),
        (RunLengths((-1, 2401), SIZE), "do not fill"),
        (RunLengths((2400,), (40, 61)), "fill 61x40 pixels, the picture is 60x40"),
        (RunLengths("~~~", SIZE), "hold '~', which is no code"),
        (RunLengths("", SIZE), "do not fill 60x40 .*sum up to 0"),
        (RunLengths("P", SIZE), "end inside a number"),
        (RunLengths("0", SIZE), "do not fill 60x40"),
    ],
)
def test_damaged_run_lengths(runs, message):
    with pytest.raises(ValueError, match=message):
        fill(runs, SIZE)


@pytest.mark.parametrize("kind", ["1", "L", "RGBA"])
def test_bitmap_at_its_place(kind):
    shape = np.array([[1, 0], [1, 1], [0, 1]], bool)
    array = {
        "1": shape,
        "L": shape.astype(np.uint8) * 255,
        "RGBA": np.dstack([np.zeros((3, 2, 3), np.uint8), shape.astype(np.uint8) * 255]),
    }[kind]
    inside = fill(Bitmap(png(array), left=58, top=10), SIZE)
    np.testing.assert_array_equal(inside[10:13, 58:60], shape)
    assert inside.sum() == 4
    cut = fill(Bitmap(png(array), left=59, top=-1), SIZE)
    assert (cut.sum(), cut[0, 59]) == (1, True)
    assert fill(Bitmap(png(array), left=-1, top=0), SIZE)[:3, 0].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no picture", "its bitmap: not a readable picture"),
        (png(np.zeros((100, 10), bool)), "has 10x100 pixels, the picture 60x40"),
        (png(np.random.default_rng(0).random((30, 50)) > 0.5)[:-80], "not a readable picture"),
    ],
)
def test_damaged_bitmap(content, message):
    with pytest.raises(ValueError, match=message):
        fill(Bitmap(content, 0, 0), SIZE)


@pytest.mark.parametrize(
    ("points", "fault"),
    [
        (square(10, 10, 20, 20), ""),
        (square(-5, 0, 5, 5), ""),
        (square(60, 0, 70, 10), r"lies outside the picture \(x 60 to 70, y 0 to 10; the picture"),
        (square(10, -20, 20, -1), "lies outside the picture"),
        (square(10, 10, 2000, 20), "reaches far outside the picture"),
        (square(10, 10, np.nan, 20), "no numbers"),
        (square(10, 10, np.inf, 20), "no numbers"),
    ],
)
def test_places(points, fault):
    found = place_fault(Polygon((points,)), SIZE)
    assert bool(found) == bool(fault)
    if fault:
        assert re.search(fault, found)


def test_rounding_at_the_edge_is_no_cut():
    assert not leaves_picture(Polygon((square(-1, 0, 61, 40),)), SIZE)
    assert leaves_picture(Polygon((square(-2, 0, 61, 40),)), SIZE)
    assert bounds(RunLengths((1,), (3, 4), left=5, top=6)) == (5, 6, 9, 9)


@pytest.fixture
def overlapping():
    """A small square of b, and over it in the file a large one of a that covers it."""
    return [
        Region("b", Polygon((square(10, 10, 14, 14),)), "first"),
        Region("a", Polygon((square(5, 5, 25, 25),)), "second"),
        Region("a", Polygon((square(20, 20, 30, 30),)), "third"),
    ]


@pytest.mark.parametrize(
    ("rule", "inside_b"),
    [(Overlaps.FILE_ORDER, 1), (Overlaps.SMALLER_ON_TOP, 2), (Overlaps.IGNORED, 255)],
)
def test_overlaps(overlapping, rule, inside_b):
    label = np.zeros(SIZE, np.uint8)
    outcome = Outcome()
    faults = draw_regions(overlapping, label, ids={"a": 1, "b": 2}, overlaps=rule, outcome=outcome)
    assert faults == []
    assert set(label[10:14, 10:14].ravel()) == {inside_b}
    assert (label[20:25, 20:25] == 1).all(), "two regions of one class do not disagree"
    assert outcome.overlapping == 16
    assert label[0, 0] == 0


def test_regions_without_a_pixel_are_counted_and_damaged_ones_named():
    outcome = Outcome()
    label = np.zeros(SIZE, np.uint8)
    regions = [
        Region("a", Polygon((square(10.6, 10.6, 10.9, 10.9),)), "tiny"),
        Region("a", RunLengths((1,), SIZE), "file 3"),
    ]
    faults = draw_regions(
        regions, label, ids={"a": 1}, overlaps=Overlaps.FILE_ORDER, outcome=outcome
    )
    assert outcome.vanished == 1
    assert [fault.split(":")[0] for fault in faults] == ["file 3"]
    assert not label.any()


def test_colours_of_a_mask(tmp_path):
    Image.fromarray(np.array([[[255, 0, 0], [0, 0, 9], [250, 3, 0]]], np.uint8)).save(
        tmp_path / "m.png"
    )
    table = {0xFF0000: "red", 0x000009: None}
    label = np.full((1, 3), 7, np.uint8)
    mask = MaskFile(tmp_path / "m.png", table, by_color=True)
    with pytest.raises(ValueError, match=r"1 pixels in 1 codes .* colour 250 3 0; .*--snap_colors"):
        draw_mask(mask, label, ids={"red": 1}, outcome=Outcome())
    snapping = MaskFile(tmp_path / "m.png", table, by_color=True, snap=True)
    outcome = Outcome()
    draw_mask(snapping, label, ids={"red": 1}, outcome=outcome)
    assert label.tolist() == [[1, 7, 1]]
    assert outcome.snapped == 1
    with pytest.raises(ValueError, match="the mask has 3x1 pixels, its photo 2x1"):
        draw_mask(snapping, label[:, :2], ids={"red": 1}, outcome=outcome)

"""Positions of tiles, and the tile that each pixel takes its class from."""

import itertools

import numpy as np
import pytest

from deeplab_tf.data.tiles import Tiling, spans


def farthest(tiling):
    """How far each pixel lies from the border of its best tile, by comparing them all in 2D.

    The rule as it is said, not as it is computed: the photo's border is infinitely far.

    Returns:
        largest distance [height, width], and the distances to each tile, -1 outside it.
    """
    rows, columns = np.mgrid[: tiling.height, : tiling.width]
    distances = []
    for tile in tiling.tiles():
        distance = np.full(rows.shape, np.inf)
        for span, place, size in (
            (tile.rows, rows, tiling.height),
            (tile.columns, columns, tiling.width),
        ):
            if span.start > 0:
                distance = np.minimum(distance, place - span.start)
            if span.stop < size:
                distance = np.minimum(distance, span.stop - 1 - place)
            distance[(place < span.start) | (place >= span.stop)] = -1
        distances.append(distance)
    return np.max(distances, axis=0), distances


CUTS = [
    (720, 960, 368, 480, 0),
    (720, 960, 368, 480, 64),
    (50, 31, 8, 7, 6),  # up to seven tiles above each other
    (50, 31, 8, 7, 3),
    (9, 40, 16, 16, 5),  # lower than a tile
    (17, 16, 16, 16, 15),
    (33, 47, 16, 16, 1),
]


@pytest.mark.parametrize("cut", CUTS)
def test_each_pixel_belongs_to_the_tile_in_which_it_lies_deepest(cut):
    tiling = Tiling(*cut)
    best, distances = farthest(tiling)
    owned = np.zeros(best.shape, int)
    for tile, distance in zip(tiling.tiles(), distances, strict=True):
        part = np.s_[tile.rows.first : tile.rows.last, tile.columns.first : tile.columns.last]
        np.testing.assert_array_equal(distance[part], best[part])
        owned[part] += 1
    assert (owned == 1).all()
    assert best.min() >= 0


@pytest.mark.parametrize("cut", CUTS)
def test_neighbours_overlap_enough_and_one_tile_less_would_not_do(cut):
    height, width, tile_height, tile_width, overlap = cut
    for size, tile in ((height, tile_height), (width, tile_width)):
        found = spans(size, tile, overlap=overlap)
        assert (found[0].start, found[-1].stop) == (0, size)
        shared = [one.stop - other.start for one, other in itertools.pairwise(found)]
        assert all(overlap <= pixels < tile for pixels in shared)
        if size > tile:
            assert {span.stop - span.start for span in found} == {tile}
            assert (len(found) - 1) * tile - (len(found) - 2) * overlap < size


def test_places_worked_out_by_hand():
    """960 in tiles of 480: two meet at 480; with 64 shared three are needed, at 0, 240 and 480."""
    two = spans(960, 480, overlap=0)
    assert [(s.start, s.stop, s.first, s.last) for s in two] == [
        (0, 480, 0, 480),
        (480, 960, 480, 960),
    ]
    three = spans(960, 480, overlap=64)
    assert [(s.start, s.stop, s.first, s.last) for s in three] == [
        (0, 480, 0, 360),
        (240, 720, 360, 600),
        (480, 960, 600, 960),
    ]
    # 3 pixels shared, 5 6 7: the middle one is as far from both borders and goes to the first.
    assert [(s.start, s.first, s.last) for s in spans(13, 8, overlap=3)] == [(0, 0, 7), (5, 7, 13)]


@pytest.mark.parametrize("cut", CUTS)
def test_cut_and_stitched_image_is_the_image(cut):
    tiling = Tiling(*cut)
    photo = np.random.default_rng(0).integers(0, 256, (*cut[:2], 3), dtype=np.uint8)
    parts = [tiling.cut(photo, tile) for tile in tiling.tiles()]
    assert {part.shape for part in parts} == {(*cut[2:4], 3)}
    np.testing.assert_array_equal(tiling.stitch(part[..., 1] for part in parts), photo[..., 1])


def test_stitched_map_names_the_deepest_tile():
    """Tiles of 6 on 10 pixels, 2 shared: the border of ownership is midway, at 5."""
    tiling = Tiling(10, 10, tile_height=6, tile_width=6, overlap=2)
    numbers = tiling.stitch(np.full((6, 6), number, np.uint8) for number in range(4))
    expected = np.repeat(np.repeat([[0, 1], [2, 3]], 5, axis=0), 5, axis=1)
    np.testing.assert_array_equal(numbers, expected)


def test_image_smaller_than_the_tile_is_padded_gray():
    tiling = Tiling(9, 40, tile_height=16, tile_width=16, overlap=5)
    photo = np.zeros((9, 40, 3), np.uint8)
    part = tiling.cut(photo, tiling.tiles()[1])
    assert (part[:9] == 0).all()
    assert (part[9:] == 128).all()


@pytest.mark.parametrize(
    ("size", "needed"),
    [((16, 16), False), ((9, 16), False), ((17, 9), True), ((9, 17), True), ((17, 17), True)],
)
def test_only_larger_images_need_tiles(size, needed):
    assert Tiling(*size, 16, 16, 4).needed == needed


@pytest.mark.parametrize("overlap", [-1, 12, 16, 400])
def test_overlap_must_be_smaller_than_a_tile(overlap):
    message = (
        rf"tiles of 16x12 pixels \(height x width\) can overlap by 0 to 11 pixels; got {overlap}"
    )
    with pytest.raises(ValueError, match=message):
        Tiling(50, 50, tile_height=16, tile_width=12, overlap=overlap)


def test_empty_image():
    with pytest.raises(ValueError, match="need at least one pixel; got 0x5 and 16x16"):
        Tiling(0, 5, tile_height=16, tile_width=16, overlap=0)


def test_lost_class_map_is_noticed():
    tiling = Tiling(10, 10, tile_height=6, tile_width=6, overlap=2)
    with pytest.raises(ValueError, match="shorter"):
        tiling.stitch(np.zeros((6, 6), np.uint8) for _ in range(3))

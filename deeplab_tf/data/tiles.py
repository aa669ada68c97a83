"""Geometry of overlapping tiles: a photo larger than a network's input is cut, not scaled.

Each pixel takes its class from the tile in which it lies farthest from the tile's border, where the
photo's own border counts as infinitely far: there is nothing beyond it that the tile could lack.
With d_i(y) the distance of row y to the upper and lower border of tile row i, and e_j(x) likewise,

    max over i, j of min(d_i(y), e_j(x)) = min(max over i of d_i(y), max over j of e_j(x))

so rows and columns are decided apart, and every tile owns one rectangle. A row lies farthest from
the border of the tile with the nearest centre: rectangles meet midway between two centres.

Logits are not averaged where tiles overlap. Class maps are all that a file with an arg max gives;
so every head is stitched in one way, and a photo takes one byte a pixel, not one number a class.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from deeplab_tf.data.preprocessing import PAD_PIXEL


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the photo.

    Attributes:
        start, stop: what the tile covers.
        first, last: what it owns, `last` exclusive; start <= first < last <= stop.
    """

    start: int
    stop: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Tile:
    """One rectangle of a photo and the part of it that counts."""

    rows: Span
    columns: Span


def check_overlap(overlap: int, tile_height: int, *, tile_width: int) -> None:
    """ValueError unless tiles of this size can overlap so much and still advance."""
    if not 0 <= overlap < min(tile_height, tile_width):
        raise ValueError(
            f"tiles of {tile_height}x{tile_width} pixels (height x width) overlap by 0 to "
            f"{min(tile_height, tile_width) - 1} pixels; got {overlap}"
        )


def spans(size: int, tile: int, *, overlap: int) -> tuple[Span, ...]:
    """Fewest tiles that cover an axis, spread evenly, so that no photo needs padding.

    Neighbours overlap by `overlap` pixels at least, by more where the tiles do not fit exactly. A
    pixel midway between two centres goes to the first.

    Args:
        size: pixels of the photo along the axis.
        tile: pixels of a tile; a photo that is not larger is one tile of its own size.
        overlap: 0..tile-1.
    """
    if size <= tile:
        return (Span(0, size, first=0, last=size),)
    count = -(-(size - overlap) // (tile - overlap))
    starts = [number * (size - tile) // (count - 1) for number in range(count)]
    # Row m of both lies start + tile - 1 - m from one border and m - next start from the other.
    middles = [(one + other + tile + 1) // 2 for one, other in itertools.pairwise(starts)]
    edges = [0, *middles, size]
    return tuple(
        Span(start, start + tile, first=first, last=last)
        for start, (first, last) in zip(starts, itertools.pairwise(edges), strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How one photo is cut.

    Attributes:
        height, width: of the photo.
        tile_height, tile_width: of a tile, the network's input.
        overlap: least number of pixels that neighbours share, along both axes.

    Raises:
        ValueError: an empty photo or tile, or an overlap that is no less than the tile.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int

    def __post_init__(self):
        if min(self.height, self.width, self.tile_height, self.tile_width) < 1:
            raise ValueError(
                f"photo and tile need a pixel at least; got {self.height}x{self.width} and "
                f"{self.tile_height}x{self.tile_width}"
            )
        check_overlap(self.overlap, self.tile_height, tile_width=self.tile_width)

    @property
    def needed(self) -> bool:
        """Whether the photo is larger than a tile, in height or in width."""
        return self.height > self.tile_height or self.width > self.tile_width

    def tiles(self) -> tuple[Tile, ...]:
        """Row by row. The rectangles that they own cover each pixel of the photo once."""
        columns = spans(self.width, self.tile_width, overlap=self.overlap)
        return tuple(
            Tile(row, column)
            for row in spans(self.height, self.tile_height, overlap=self.overlap)
            for column in columns
        )

    def cut(self, photo: np.ndarray, tile: Tile) -> np.ndarray:
        """One tile's pixels, not scaled; padded gray below and right of a photo that ends before.

        Args:
            photo: uint8 [height, width, channels].

        Returns:
            uint8 [tile_height, tile_width, channels].
        """
        part = photo[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
        if part.shape[:2] == (self.tile_height, self.tile_width):
            return part
        canvas = np.full(
            (self.tile_height, self.tile_width, photo.shape[2]), PAD_PIXEL, photo.dtype
        )
        canvas[: part.shape[0], : part.shape[1]] = part
        return canvas

    def stitch(self, class_maps: Iterable[np.ndarray]) -> np.ndarray:
        """Puts the class maps of all tiles together; one at a time is held.

        Args:
            class_maps: one a tile, in the order of `tiles()`, [tile_height, tile_width].

        Returns:
            [height, width] of the tiles' dtype.
        """
        whole = np.empty((self.height, self.width), np.uint8)
        for tile, class_map in zip(self.tiles(), class_maps, strict=True):
            whole = whole.astype(class_map.dtype, copy=False)
            rows, columns = tile.rows, tile.columns
            whole[rows.first : rows.last, columns.first : columns.last] = class_map[
                rows.first - rows.start : rows.last - rows.start,
                columns.first - columns.start : columns.last - columns.start,
            ]
        return whole

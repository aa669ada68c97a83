"""Geometry of overlapping tiles, into which images larger than a network's input are cut.

Each pixel takes its class from the tile in which it is farthest from the border of the tile. The
border of the image itself counts as infinitely far, because nothing beyond it is missing in the
tile. With d_i(y) the distance of row y to the upper and lower border of tile row i, and e_j(x)
likewise for columns,

    max over i, j of min(d_i(y), e_j(x)) = min(max over i of d_i(y), max over j of e_j(x))

so rows and columns are decided independently, and every tile owns one rectangle. A row is farthest
from the border of the tile with the nearest centre: rectangles meet midway between two centres.

Logits are not averaged where tiles overlap. A file that ends in arg max gives class maps only, so
all heads are stitched in the same way, with one byte per pixel instead of one number per class.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from deeplab_tf.data.preprocessing import PAD_PIXEL


@dataclasses.dataclass(frozen=True)
class Span:
    """One tile along one axis, in pixels of the image; start <= first < last <= stop.

    Attributes:
        start: first pixel that the tile covers.
        stop: end of the covered pixels, exclusive.
        first: first pixel that the tile owns.
        last: end of the owned pixels, exclusive.
    """

    start: int
    stop: int
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Tile:
    """One rectangle of an image and the part of it that the tile owns.

    Attributes:
        rows: the vertical extent.
        columns: the horizontal extent.
    """

    rows: Span
    columns: Span


def check_overlap(overlap: int, tile_height: int, *, tile_width: int) -> None:
    """Checks that an overlap is smaller than the tiles.

    Args:
        overlap: pixels that neighbouring tiles share.
        tile_height: height of a tile.
        tile_width: width of a tile.

    Raises:
        ValueError: a negative overlap, or one that is no smaller than the tile.
    """
    if not 0 <= overlap < min(tile_height, tile_width):
        raise ValueError(
            f"tiles of {tile_height}x{tile_width} pixels (height x width) can overlap by 0 to "
            f"{min(tile_height, tile_width) - 1} pixels; got {overlap}"
        )


def spans(size: int, tile: int, *, overlap: int) -> tuple[Span, ...]:
    """Covers an axis with the fewest tiles, evenly spread, without padding.

    Neighbours overlap by at least `overlap` pixels, by more where the tiles do not fit exactly. A
    pixel midway between two centres belongs to the first tile.

    Args:
        size: size of the image along the axis, pixels.
        tile: size of a tile, pixels; a smaller image is one tile of its own size.
        overlap: 0..tile-1.

    Returns:
        The tiles, from the first pixel to the last.
    """
    if size <= tile:
        return (Span(0, size, first=0, last=size),)
    count = -(-(size - overlap) // (tile - overlap))
    starts = [number * (size - tile) // (count - 1) for number in range(count)]
    # Row m of both is start + tile - 1 - m from one border and m - next start from the other.
    middles = [(one + other + tile + 1) // 2 for one, other in itertools.pairwise(starts)]
    edges = [0, *middles, size]
    return tuple(
        Span(start, start + tile, first=first, last=last)
        for start, (first, last) in zip(starts, itertools.pairwise(edges), strict=True)
    )


@dataclasses.dataclass(frozen=True)
class Tiling:
    """Division of one image into tiles.

    Attributes:
        height: height of the image.
        width: width of the image.
        tile_height: height of a tile, the network's input.
        tile_width: width of a tile.
        overlap: smallest number of pixels that neighbours share, along both axes.

    Raises:
        ValueError: an empty image or tile, or an overlap that is no smaller than the tile.
    """

    height: int
    width: int
    tile_height: int
    tile_width: int
    overlap: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile_height, self.tile_width) < 1:
            raise ValueError(
                f"image and tile need at least one pixel; got {self.height}x{self.width} and "
                f"{self.tile_height}x{self.tile_width}"
            )
        check_overlap(self.overlap, self.tile_height, tile_width=self.tile_width)

    @property
    def needed(self) -> bool:
        """Whether the image is larger than a tile, in height or in width."""
        return self.height > self.tile_height or self.width > self.tile_width

    def tiles(self) -> tuple[Tile, ...]:
        """Returns the tiles, row by row; together they own each pixel of the image once."""
        columns = spans(self.width, self.tile_width, overlap=self.overlap)
        return tuple(
            Tile(row, column)
            for row in spans(self.height, self.tile_height, overlap=self.overlap)
            for column in columns
        )

    def cut(self, image: np.ndarray, tile: Tile) -> np.ndarray:
        """Cuts one tile without scaling; gray padding below and right of a smaller image.

        Args:
            image: uint8 [height, width, channels].
            tile: one of `tiles()`.

        Returns:
            uint8 [tile_height, tile_width, channels].
        """
        part = image[tile.rows.start : tile.rows.stop, tile.columns.start : tile.columns.stop]
        if part.shape[:2] == (self.tile_height, self.tile_width):
            return part
        canvas = np.full(
            (self.tile_height, self.tile_width, image.shape[2]), PAD_PIXEL, image.dtype
        )
        canvas[: part.shape[0], : part.shape[1]] = part
        return canvas

    def stitch(self, class_maps: Iterable[np.ndarray]) -> np.ndarray:
        """Joins the class maps of all tiles, holding one at a time in memory.

        Args:
            class_maps: one per tile, in the order of `tiles()`, [tile_height, tile_width].

        Returns:
            [height, width] of the same dtype.
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

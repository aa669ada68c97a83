"""Drawing that several reports share: palette images, captions, tiles side by side."""

import functools
import importlib.util
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"
"""In matplotlib's package: Latin, Greek, Cyrillic. Pillow's own font has Latin only."""


@functools.lru_cache(maxsize=32)
def label_font(size: int) -> Font:
    """Returns a font for names and captions.

    Args:
        size: in pixels.
    """
    found = importlib.util.find_spec("matplotlib")  # found, not imported: that takes half a second
    for folder in (found.submodule_search_locations or []) if found else []:
        path = pathlib.Path(folder) / _FONT
        if path.is_file():
            return ImageFont.truetype(str(path), size)
    return ImageFont.load_default(size)


def palette_image(
    classes: np.ndarray,
    colors: Sequence[Sequence[int]],
    *,
    other: Sequence[int] = (0, 0, 0),
) -> Image.Image:
    """Returns a class map as a palette image.

    Args:
        classes: uint8 [height, width].
        colors: (red, green, blue) of each class, 0..255.
        other: colour of all other values.
    """
    picture = Image.fromarray(classes)
    palette = [*colors, *[other] * (256 - len(colors))]
    picture.putpalette([part for color in palette for part in color])
    return picture


def captioned_row(
    tiles: Sequence[tuple[str, np.ndarray]],
    width: int,
    *,
    font: Font | None = None,
    caption_height: int = 16,
    gap: int = 4,
) -> Image.Image:
    """Returns pictures side by side, each of one width, with its caption above it.

    Args:
        tiles: (caption, uint8 [height, width, 3]) each.
        width: of each tile, in pixels.
        font: of the captions; default: Pillow's own.
        caption_height: in pixels.
        gap: between tiles, in pixels.
    """
    height = max(_scaled_height(tile, width) for _, tile in tiles)
    row = Image.new("RGB", (len(tiles) * (width + gap) - gap, height + caption_height), "white")
    draw = ImageDraw.Draw(row)
    for column, (caption, tile) in enumerate(tiles):
        left = column * (width + gap)
        size = (width, _scaled_height(tile, width))
        row.paste(
            Image.fromarray(tile).resize(size, Image.Resampling.NEAREST), (left, caption_height)
        )
        draw.text((left + 2, 2), caption, fill="black", font=font)
    return row


def _scaled_height(tile: np.ndarray, width: int) -> int:
    return max(1, round(tile.shape[0] * width / tile.shape[1]))


def stacked(rows: Sequence[Image.Image], gap: int = 4) -> Image.Image:
    """Returns pictures one below the other, on white.

    Args:
        rows: the pictures.
        gap: between them, in pixels.
    """
    width = max(row.width for row in rows)
    sheet = Image.new("RGB", (width, sum(row.height + gap for row in rows) - gap), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height + gap
    return sheet

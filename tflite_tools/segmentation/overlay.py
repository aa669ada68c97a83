"""Draws masks over photos, with names and a legend, and where two masks differ."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from tflite_tools.drawing import Font, captioned_row, label_font, stacked
from tflite_tools.segmentation.classes import ClassList

DIFFERENT = (255, 0, 200)
"""Of pixels where two masks differ; the palette has no such colour among its first."""
_OUTLINE = 1 / 400
"""Width of outlines, of the smaller side of the photo."""
_NAMED_SHARE = 0.004
"""Smallest share of the picture of a class whose name is written onto it."""
_WORK_SIDE = 256
"""Places of names are searched on a mask that is reduced to this."""
_LEAST_ROWS = 4
TILE_WIDTH = 480
_NARROWEST = 240


def overlay(
    photo: np.ndarray, mask: np.ndarray, *, classes: ClassList, opacity: float, names: bool = True
) -> np.ndarray:
    """Tints a photo by class, outlines the regions, and writes their names onto them.

    A background is not tinted.

    Args:
        photo: uint8 [height, width, 3], RGB.
        mask: unsigned [height, width].
        classes: of the mask.
        opacity: of the colours, 0..1.
        names: whether to write names.

    Returns:
        uint8 [height, width, 3].
    """
    table = classes.table(int(mask.max()))
    weight = np.full(len(table), round(256 * opacity), np.uint16)
    if classes.background:
        weight[0] = 0
    color, own = table[mask], weight[mask][..., None]
    drawn = ((photo * (256 - own) + color * own) >> 8).astype(np.uint8)
    edges = _edges(mask, max(1, round(min(mask.shape) * _OUTLINE)))
    edges &= own[..., 0] > 0
    drawn[edges] = color[edges]
    return _with_names(drawn, mask, classes) if names else drawn


def _edges(mask: np.ndarray, width: int) -> np.ndarray:
    """Marks the pixels within `width` of another class above, below, left or right of them."""
    found = np.zeros(mask.shape, bool)
    if min(mask.shape) <= width:
        return found
    rows, columns = mask[width:] != mask[:-width], mask[:, width:] != mask[:, :-width]
    found[width:] |= rows
    found[:-width] |= rows
    found[:, width:] |= columns
    found[:, :-width] |= columns
    return found


def _with_names(drawn: np.ndarray, mask: np.ndarray, classes: ClassList) -> np.ndarray:
    from scipy import ndimage  # noqa: PLC0415 - half of the command's start, and only for photos

    picture = Image.fromarray(drawn)
    draw = ImageDraw.Draw(picture)
    size = font_size(mask.shape)
    step = max(1, max(mask.shape) // _WORK_SIDE)
    small = mask[::step, ::step]
    for label, share in classes.shares(small).items():
        if share < _NAMED_SHARE or (label == 0 and classes.background) or label == classes.unused:
            continue
        # Farthest from every border of the class, those of the photo included.
        depth = ndimage.distance_transform_edt(np.pad(small == label, 1))[1:-1, 1:-1]
        row, column = np.unravel_index(int(depth.argmax()), depth.shape)
        if depth[row, column] * step < size / 2:
            continue
        font = label_font(size)
        half = font.getlength(classes.name(label)) / 2 + 2
        inside = min(max(int(column) * step, half), max(half, mask.shape[1] - half))
        draw.text(
            (inside, int(row) * step),
            classes.name(label),
            fill="white",
            font=font,
            anchor="mm",
            stroke_width=max(1, size // 8),
            stroke_fill="black",
        )
    return np.asarray(picture)


def font_size(shape: Sequence[int]) -> int:
    """Returns the size of text that can be read on a picture, in pixels.

    Args:
        shape: (height, width) of the picture.
    """
    return max(11, round(min(shape[:2]) / 26))


def legend(
    classes: ClassList,
    shares: dict[int, float],
    *,
    shape: Sequence[int],
    height: int | None = None,
    title: str = "",
) -> np.ndarray:
    """Draws the classes that occur, with their colours and shares of the picture.

    Args:
        classes: of the mask.
        shares: share of the picture by class, in the order to list.
        shape: (height, width) of the picture beside it, for the size of the text.
        height: of the legend; default: what the classes need, at least the picture's. Classes that
            do not fit are counted.
        title: first line.

    Returns:
        uint8 [height, width, 3]; the width depends on the names that the file has, not on those
        that occur, so that it is the same for every picture of one size.
    """
    size = font_size(shape)
    font, line = label_font(size), round(size * 1.6)
    longest = [*classes.names, "class 000", title]
    width = round(max(font.getlength(name) for name in longest)) + round(size * 7)
    rows = list(shares.items())
    if height is None:
        height = max(shape[0], line * (max(len(rows), _LEAST_ROWS) + bool(title)) + size)
    room = max(1, (height - size) // line - bool(title))
    shown = rows if len(rows) <= room else rows[: max(1, room - 1)]
    panel = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(panel)
    top = size // 2
    if title:
        draw.text((size // 2, top), title, fill="black", font=font)
        top += line
    for label, share in shown:
        box = (size // 2, top + size // 8, size // 2 + size, top + size // 8 + size)
        draw.rectangle(box, fill=classes.color(label), outline="black")
        draw.text((2 * size, top), classes.name(label), fill="black", font=font)
        draw.text((width - size // 2, top), percent(share), fill="black", font=font, anchor="ra")
        top += line
    if len(shown) < len(rows):
        rest = sum(share for _, share in rows[len(shown) :])
        more = f"{len(rows) - len(shown)} more"
        draw.text((2 * size, top), more, fill="black", font=font)
        draw.text((width - size // 2, top), percent(rest), fill="black", font=font, anchor="ra")
    return np.asarray(panel)


def percent(share: float) -> str:
    """Returns a share of the picture as text.

    Args:
        share: 0..1.
    """
    return "< 0.1 %" if 0 < share < 0.001 else f"{share:.1%}".replace("%", " %")


def beside(picture: np.ndarray, panel: np.ndarray) -> np.ndarray:
    """Returns two pictures next to each other, on white.

    Args:
        picture: uint8 [height, width, 3].
        panel: uint8 [height, width, 3].
    """
    height = max(picture.shape[0], panel.shape[0])
    sheet = np.full((height, picture.shape[1] + panel.shape[1], 3), 255, np.uint8)
    sheet[: picture.shape[0], : picture.shape[1]] = picture
    sheet[: panel.shape[0], picture.shape[1] :] = panel
    return sheet


def difference(photo: np.ndarray, differs: np.ndarray) -> np.ndarray:
    """Shows where masks differ, on the photo in pale gray.

    Args:
        photo: uint8 [height, width, 3].
        differs: bool [height, width].

    Returns:
        uint8 [height, width, 3].
    """
    gray = np.asarray(Image.fromarray(photo).convert("L"))
    drawn = np.repeat((128 + gray // 2)[..., None], 3, axis=2)
    drawn[differs] = DIFFERENT
    return drawn


def shrink(picture: np.ndarray, width: int) -> np.ndarray:
    """Reduces a picture to a width; smaller ones are left as they are.

    Args:
        picture: uint8 [height, width, 3].
        width: in pixels.
    """
    if picture.shape[1] <= width:
        return picture
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.BOX))


def sheet(rows: Sequence[Sequence[tuple[str, np.ndarray]]], width: int = TILE_WIDTH) -> np.ndarray:
    """Returns rows of captioned pictures as one picture.

    Args:
        rows: (caption, uint8 [height, width, 3]) of each tile.
        width: largest width of a tile.
    """
    reduced = [[(name, shrink(tile, width)) for name, tile in row] for row in rows]
    width = max(_NARROWEST, *(tile.shape[1] for row in reduced for _, tile in row))
    font, height = label_font(14), 22
    drawn = []
    for row in reduced:
        tiles = [(_fitting(caption, width, font), tile) for caption, tile in row]
        drawn.append(captioned_row(tiles, width, font=font, caption_height=height))
    return np.asarray(stacked(drawn))


def _fitting(caption: str, width: int, font: Font) -> str:
    """Returns as much of a caption as fits above a tile."""
    if font.getlength(caption) <= width:
        return caption
    while caption and font.getlength(f"{caption} ...") > width:
        caption = caption[:-1]
    return f"{caption} ..."

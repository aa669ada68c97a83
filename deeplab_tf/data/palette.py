"""Colours for any number of classes that also colour-blind readers tell apart.

The first seven are those of Okabe and Ito 2008 (Color Universal Design). Each further one is the
colour that is farthest from all before it (Glasbey et al. 2007), where the distance of two colours
is the smallest that a reader sees with normal vision, without red or without green cones: Machado
et al. 2009, doi:10.1109/TVCG.2009.113, severity 1. No palette keeps very many classes apart by
colour alone, so pictures name their classes, too.
"""

import functools

import numpy as np

Color = tuple[int, int, int]

OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_WITHOUT_RED = (
    (0.152286, 1.052583, -0.204868),
    (0.114503, 0.786281, 0.099216),
    (-0.003882, -0.048116, 1.051998),
)
_WITHOUT_GREEN = (
    (0.367322, 0.860646, -0.227968),
    (0.280085, 0.672501, 0.047413),
    (-0.011820, 0.042940, 0.968881),
)
VISIONS = tuple(np.asarray(m, np.float64) for m in (np.eye(3), _WITHOUT_RED, _WITHOUT_GREEN))
"""Linear RGB as seen: normal vision, protanopia, deuteranopia."""

_DARKEST, _LIGHTEST = 25.0, 92.0
"""CIELAB lightness: black is the background, white the paper of a legend."""
_LEVELS = (0, 32, 64, 96, 128, 160, 192, 224, 255)


def distinct_colors(count: int) -> tuple[Color, ...]:
    """Returns colours that stay the same when more are asked for.

    Args:
        count: of colours, at most 256.

    Returns:
        (red, green, blue) each, 0..255.
    """
    if count <= len(OKABE_ITO):
        return OKABE_ITO[:count]
    return _further(256)[:count]


@functools.lru_cache(maxsize=1)
def _further(count: int) -> tuple[Color, ...]:
    grid = np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), -1).reshape(-1, 3)
    lightness = as_seen(grid, VISIONS[0])[:, 0]
    grid = grid[(lightness > _DARKEST) & (lightness < _LIGHTEST)]
    chosen = list(OKABE_ITO)
    nearest = distances(grid, np.asarray(chosen)).min(1)
    while len(chosen) < count:
        best = grid[int(nearest.argmax())]
        chosen.append((int(best[0]), int(best[1]), int(best[2])))
        nearest = np.minimum(nearest, distances(grid, best[None])[:, 0])
    return tuple(chosen)


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the distance of each pair of colours for the reader who sees least of it.

    Args:
        first: uint8 [m, 3], RGB.
        second: uint8 [n, 3], RGB.

    Returns:
        float64 [m, n], in units of CIELAB (about 2 is just noticeable side by side).
    """
    pairs = ((as_seen(first, vision), as_seen(second, vision)) for vision in VISIONS)
    return np.min([np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in pairs], axis=0)


def as_seen(colors: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """Returns sRGB colours in CIELAB (D65), as a reader sees them.

    Args:
        colors: uint8 [n, 3], RGB.
        vision: float64 [3, 3] over linear RGB, one of `VISIONS`.

    Returns:
        float64 [n, 3]: lightness 0..100, a, b.
    """
    values = np.asarray(colors, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = (linear @ vision.T).clip(0, 1)
    to_xyz = np.array(
        (
            (0.4124564, 0.3575761, 0.1804375),
            (0.2126729, 0.7151522, 0.0721750),
            (0.0193339, 0.1191920, 0.9503041),
        )
    )
    xyz = linear @ to_xyz.T / np.array((0.95047, 1.0, 1.08883))
    root = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    x, y, z = root.T
    return np.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)

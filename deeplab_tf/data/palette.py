"""Colours for any number of classes that also colour-blind readers tell apart.

The first seven are those of Okabe and Ito 2008 (Color Universal Design). Each further one is the
colour that is farthest from all before it (Glasbey et al. 2007), where the distance of two colours
is the smallest that a reader sees with normal vision, without red or without green cones: Machado
et al. 2009, doi:10.1109/TVCG.2009.113, severity 1, in Oklab (Ottosson 2020). No palette keeps very
many classes apart by colour alone, so pictures name their classes, too.
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
_CONES = np.array(
    (
        (0.4122214708, 0.5363325363, 0.0514459929),
        (0.2119034982, 0.6806995451, 0.1073969566),
        (0.0883024619, 0.2817188376, 0.6299787005),
    )
)
_OKLAB = np.array(
    (
        (0.2104542553, 0.7936177850, -0.0040720468),
        (1.9779984951, -2.4285922050, 0.4505937099),
        (0.0259040371, 0.7827717662, -0.8086757660),
    )
)
VISIONS = tuple(np.asarray(m, np.float64) for m in (np.eye(3), _WITHOUT_RED, _WITHOUT_GREEN))
"""Linear RGB as seen: normal vision, protanopia, deuteranopia."""

_DARKEST, _LIGHTEST = 0.35, 0.93
"""Lightness: black is the background, white the paper of a legend."""
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
        float64 [m, n], in units of Oklab: black to white is 1, about 0.02 is just noticeable.
    """
    pairs = ((as_seen(first, vision), as_seen(second, vision)) for vision in VISIONS)
    return np.min([np.linalg.norm(a[:, None] - b[None], axis=-1) for a, b in pairs], axis=0)


def as_seen(colors: np.ndarray, vision: np.ndarray) -> np.ndarray:
    """Returns sRGB colours in Oklab, as a reader sees them.

    Args:
        colors: uint8 [n, 3], RGB.
        vision: float64 [3, 3] over linear RGB, one of `VISIONS`.

    Returns:
        float64 [n, 3]: lightness 0..1, a (green to red), b (blue to yellow).
    """
    values = np.asarray(colors, np.float64) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear = (linear @ vision.T).clip(0, 1)
    return np.cbrt(linear @ _CONES.T) @ _OKLAB.T

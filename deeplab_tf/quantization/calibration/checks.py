"""Calibration photos: what spoils the ranges is refused, what says little is warned of."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging

_PLANTED_PIXELS = 2
"""`export.conversion.calibration` sets this many first pixels of one photo to the range's ends."""

_SHARE_BELOW_ZERO = 0.25
"""A network whose input range has less than this below 0 may well see nothing negative."""


def non_empty_batches(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The batches that hold photos.

    Args:
        batches: float32 [batch, height, width, channels], normalized.

    Raises:
        ValueError: none does, or a value is NaN or infinite.
    """
    for index, batch in enumerate(batches):
        if not np.isfinite(batch).all():
            raise ValueError(
                f"calibration batch {index} holds NaN or infinity; leave that image out"
            )
    if not (found := [batch for batch in batches if len(batch)]):
        raise ValueError("no calibration images; give at least one")
    return found


def check_images(
    batches: Sequence[np.ndarray], input_range: tuple[float, float]
) -> list[np.ndarray]:
    """Refuses what calibrates nothing, warns of what calibrates little.

    Args:
        batches: float32 [batch, height, width, channels], normalized.
        input_range: smallest and largest normalized pixel.

    Returns:
        the batches that hold photos.

    Raises:
        ValueError: no photos, values that are not finite or outside the input range.
    """
    batches = non_empty_batches(batches)
    low = min(float(batch.min()) for batch in batches)
    high = max(float(batch.max()) for batch in batches)
    slack = 0.01 * (input_range[1] - input_range[0])
    if not input_range[0] - slack <= low <= high <= input_range[1] + slack:
        raise ValueError(
            f"calibration images reach from {low:.4g} to {high:.4g}, the network takes "
            f"{input_range[0]:.4g} to {input_range[1]:.4g}; normalize them by its preprocessing"
        )
    if low >= 0 and high <= 1 and _takes_negatives(input_range):
        logging.warning(
            "all calibration images lie within 0..1, the network takes %.4g to %.4g: were they "
            "divided by 255? normalize them by its preprocessing",
            *input_range,
        )
    warn_about_repeats(image for batch in batches for image in batch)
    return batches


def _takes_negatives(input_range: tuple[float, float]) -> bool:
    low, high = input_range
    return -low >= _SHARE_BELOW_ZERO * (high - low)


def warn_about_repeats(images: Iterable[np.ndarray]) -> None:
    """One image, or the same image several times, calibrates less than it seems to.

    Args:
        images: any dtype [height, width, channels].
    """
    prints = [_fingerprint(image) for image in images]
    different = len(set(prints))
    if different == 1:
        logging.warning(
            "ranges come from one image%s: what other photos hold is clipped; give 32 or more",
            "" if len(prints) == 1 else f" repeated {len(prints)} times",
        )
    elif different < len(prints):
        logging.warning(
            "%d of %d calibration images are repeats; they add nothing",
            len(prints) - different,
            len(prints),
        )


def _fingerprint(image: np.ndarray) -> bytes:
    pixels = image.reshape(-1, image.shape[-1])
    return hashlib.sha256(pixels[_PLANTED_PIXELS:].tobytes()).digest()

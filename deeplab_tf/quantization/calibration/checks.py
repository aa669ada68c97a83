"""Checks of calibration images: rejects unusable ones and warns about uninformative ones."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from absl import logging

_OVERWRITTEN_PIXELS = 2
"""`export.conversion.calibration` sets the first pixels of one image to the ends of the range."""

_NEGATIVE_FRACTION = 0.25
"""If less than this fraction of the input range is negative, images without negative values are
plausible."""


def non_empty_batches(batches: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Returns the batches that contain images.

    Args:
        batches: float32 [batch, height, width, channels], normalized.

    Returns:
        The batches with at least one image.

    Raises:
        ValueError: there is no image, or a value is NaN or infinite.
    """
    for index, batch in enumerate(batches):
        if not np.isfinite(batch).all():
            raise ValueError(
                f"calibration batch {index} contains NaN or infinity; remove that image"
            )
    if not (with_images := [batch for batch in batches if len(batch)]):
        raise ValueError("no calibration images; give at least one")
    return with_images


def check_images(
    batches: Sequence[np.ndarray], input_range: tuple[float, float]
) -> list[np.ndarray]:
    """Rejects unusable calibration images and warns about uninformative ones.

    Args:
        batches: float32 [batch, height, width, channels], normalized.
        input_range: smallest and largest normalized pixel.

    Returns:
        The batches with at least one image.

    Raises:
        ValueError: no images, or values that are not finite or outside the input range.
    """
    batches = non_empty_batches(batches)
    low = min(float(batch.min()) for batch in batches)
    high = max(float(batch.max()) for batch in batches)
    slack = 0.01 * (input_range[1] - input_range[0])
    if not input_range[0] - slack <= low <= high <= input_range[1] + slack:
        raise ValueError(
            f"expected calibration images within {input_range[0]:.4g} to {input_range[1]:.4g}, "
            f"got {low:.4g} to {high:.4g}; normalize them as the network's preprocessing does"
        )
    if low >= 0 and high <= 1 and _takes_negatives(input_range):
        logging.warning(
            "all calibration images lie within 0..1, but the network takes %.4g to %.4g; were they "
            "divided by 255? Normalize them as the network's preprocessing does",
            *input_range,
        )
    warn_about_repeats(image for batch in batches for image in batch)
    return batches


def _takes_negatives(input_range: tuple[float, float]) -> bool:
    low, high = input_range
    return -low >= _NEGATIVE_FRACTION * (high - low)


def warn_about_repeats(images: Iterable[np.ndarray]) -> None:
    """Warns if there is only one image, or if images occur several times.

    Args:
        images: any dtype [height, width, channels].
    """
    fingerprints = [_fingerprint(image) for image in images]
    different = len(set(fingerprints))
    if different == 1:
        logging.warning(
            "ranges are measured on one image%s: larger values in other images are clipped; give "
            "32 or more images",
            "" if len(fingerprints) == 1 else f" repeated {len(fingerprints)} times",
        )
    elif different < len(fingerprints):
        logging.warning(
            "%d of %d calibration images are repeated; they do not improve the ranges",
            len(fingerprints) - different,
            len(fingerprints),
        )


def _fingerprint(image: np.ndarray) -> bytes:
    pixels = image.reshape(-1, image.shape[-1])
    return hashlib.sha256(pixels[_OVERWRITTEN_PIXELS:].tobytes()).digest()

"""Coordinate conventions of a resize, independent of TensorFlow."""

import enum

import numpy as np


class Alignment(enum.Enum):
    """Source coordinate of output row i; a convention other than in training shifts the masks."""

    HALF_PIXEL = "half_pixel"
    """(i + 0.5) * in / out - 0.5: pixel centres, used by this project's own networks."""
    ALIGN_CORNERS = "align_corners"
    """i * (in - 1) / (out - 1): corners aligned, for sizes of stride * k + 1 (DeepLab, TF1)."""
    LEGACY = "legacy"
    """i * in / out: the default of TF1."""

    def positions(self, source: int, target: int) -> np.ndarray:
        """Computes the source coordinate of each target index.

        Args:
            source: size of the input along the axis.
            target: size of the output along the axis.

        Returns:
            float64 [target]; coordinates may lie outside the source.
        """
        index = np.arange(target, dtype=np.float64)
        if self is Alignment.ALIGN_CORNERS:
            return index * (source - 1) / max(target - 1, 1)
        if self is Alignment.LEGACY:
            return index * source / target
        return (index + 0.5) * source / target - 0.5


def nearest_indices(source: int, target: int, *, alignment: Alignment) -> np.ndarray:
    """Computes the nearest source index of each target index.

    Args:
        source: size of the input along the axis.
        target: size of the output along the axis.
        alignment: coordinate convention.

    Returns:
        int32 [target].
    """
    index = np.arange(target)
    if alignment is Alignment.ALIGN_CORNERS:
        if target == 1:
            return np.zeros(1, np.int32)
        return np.floor(index * (source - 1) / (target - 1) + 0.5).astype(np.int32)
    shift = 0.5 if alignment is Alignment.HALF_PIXEL else 0.0
    return ((index + shift) * source / target).astype(np.int32)

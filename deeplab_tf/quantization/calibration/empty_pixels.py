"""Pixels that say nothing, such as those of a range image without a return, out of statistics.

An empty pixel is 0 in every channel after normalization (data.range_image). In a layer, each
position weighs as much as the share of its part of the image that is not empty.
"""

import numpy as np
import tensorflow as tf


class PixelWeights:
    """Weights of the positions of any layer, for one batch.

    Args of the constructor:
        batch: float32 [batch, height, width, channels], normalized.
    """

    def __init__(self, batch: np.ndarray) -> None:
        occupied = np.any(np.asarray(batch) != 0, axis=-1, keepdims=True)
        self._occupied = occupied.astype(np.float32)
        self._known: dict[tuple[int, int], np.ndarray] = {}

    def of(self, value) -> np.ndarray:
        """float64 [positions] of a value [batch, ..., channels], flattened without its channels;
        only its shape counts, whose batch may be unknown.

        A value without height and width weighs 1 a position.
        """
        if len(value.shape) != 4:
            return np.ones(len(self._occupied) * int(np.prod(value.shape[1:-1])))
        size = (int(value.shape[1]), int(value.shape[2]))
        if size not in self._known:
            shares = tf.image.resize(self._occupied, size, tf.image.ResizeMethod.AREA)
            self._known[size] = np.asarray(shares, np.float64).ravel()
        return self._known[size]


def pixel_weights(batches: list[np.ndarray], ignore_empty: bool) -> list[PixelWeights | None]:
    """One a batch; None where every pixel counts."""
    return [PixelWeights(batch) if ignore_empty else None for batch in batches]


def empty_share(batches: list[np.ndarray]) -> float:
    """Share of pixels that are empty."""
    empty = [np.all(batch == 0, axis=-1) for batch in batches]
    return float(sum(part.sum() for part in empty) / sum(part.size for part in empty))

"""Weights that exclude empty pixels, such as those of a range image without a return.

An empty pixel is 0 in every channel after normalization (`data.lidar.range_image`). In a layer, the
weight of a position is the fraction of its area in the image that is not empty.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf


class PixelWeights:
    """Weights of the positions of any layer, for one batch.

    Args:
        batch: float32 [batch, height, width, channels], normalized.
    """

    def __init__(self, batch: np.ndarray) -> None:
        occupied = np.any(np.asarray(batch) != 0, axis=-1, keepdims=True)
        self._occupied = occupied.astype(np.float32)
        self._weights_of_size: dict[tuple[int, int], np.ndarray] = {}

    def of(self, value: tf.Tensor | np.ndarray) -> np.ndarray:
        """Returns the weights of the positions of a layer's output.

        Args:
            value: [batch, ..., channels]; only its shape is used, and its batch may be unknown.

        Returns:
            float64 [positions], flattened over all axes but the channels; 1 for a value without
            height and width.
        """
        if len(value.shape) != 4:
            return np.ones(len(self._occupied) * int(np.prod(value.shape[1:-1])))
        size = (int(value.shape[1]), int(value.shape[2]))
        if size not in self._weights_of_size:
            shares = tf.image.resize(self._occupied, size, tf.image.ResizeMethod.AREA)
            self._weights_of_size[size] = np.asarray(shares, np.float64).ravel()
        return self._weights_of_size[size]


def pixel_weights(batches: Sequence[np.ndarray], ignore_empty: bool) -> list[PixelWeights | None]:
    """Builds the weights of each batch.

    Args:
        batches: float32 [batch, height, width, channels], normalized.
        ignore_empty: whether empty pixels are excluded.

    Returns:
        One per batch; None if all pixels count.
    """
    return [PixelWeights(batch) if ignore_empty else None for batch in batches]


def empty_share(batches: Sequence[np.ndarray]) -> float:
    """Computes the fraction of pixels that are empty.

    Args:
        batches: float32 [batch, height, width, channels], normalized.

    Returns:
        The fraction over all batches.
    """
    empty = [np.all(batch == 0, axis=-1) for batch in batches]
    return float(sum(part.sum() for part in empty) / sum(part.size for part in empty))

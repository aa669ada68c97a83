"""Bringing logits to a photo's size: which convention, and the indices of its nearest form."""

import enum

import numpy as np
import tensorflow as tf


class Alignment(enum.Enum):
    """Source coordinate of output row i; another than in training shifts the masks."""

    HALF_PIXEL = "half_pixel"
    """(i + 0.5) * in / out - 0.5: pixel centres, what this project's own networks use."""
    ALIGN_CORNERS = "align_corners"
    """i * (in - 1) / (out - 1): corners on corners, for sizes of stride * k + 1 (DeepLab, TF1)."""
    LEGACY = "legacy"
    """i * in / out: TF1's default."""


def resize_bilinear(images, height: int, width: int, alignment: Alignment) -> tf.Tensor:
    """float32 [batch, h, w, channels] -> float32 [batch, height, width, channels].

    `height` and `width` may be int32 tensors.
    """
    if images.shape[1:3].as_list() == [tf.get_static_value(height), tf.get_static_value(width)]:
        return images
    return tf.raw_ops.ResizeBilinear(
        images=images,
        size=[height, width],
        align_corners=alignment is Alignment.ALIGN_CORNERS,
        half_pixel_centers=alignment is Alignment.HALF_PIXEL,
    )


def nearest_indices(source: int, target: int, alignment: Alignment) -> np.ndarray:
    """Source index of each target index, int32 [target]."""
    index = np.arange(target)
    if alignment is Alignment.ALIGN_CORNERS:
        if target == 1:
            return np.zeros(1, np.int32)
        return np.floor(index * (source - 1) / (target - 1) + 0.5).astype(np.int32)
    shift = 0.5 if alignment is Alignment.HALF_PIXEL else 0.0
    return ((index + shift) * source / target).astype(np.int32)

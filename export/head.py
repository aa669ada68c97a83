"""What stands between a network's logits and a file's output."""

import numpy as np
import tensorflow as tf

from export.variants import Head


def apply_head(logits: tf.Tensor, head: Head, height: int, width: int) -> tf.Tensor:
    """Adds a head.

    Args:
        logits: float32 [1, h, w, num_classes], static shape.
        head: which.
        height, width: size of the network's input.

    Returns:
        float32 [1, height, width, num_classes] (LOGITS), `logits` (LOGITS_LOW), or
        uint8 [1, height, width] (ARGMAX, ARGMAX_LOW).
    """
    if head is Head.LOGITS_LOW:
        return logits
    if head is Head.ARGMAX_LOW:
        # The converter has no nearest resize of integers; columns first, so that the second
        # gather copies whole rows.
        classes = tf.gather(_argmax(logits), _nearest(logits.shape[2], width), axis=2)
        return tf.gather(classes, _nearest(logits.shape[1], height), axis=1)
    full = tf.image.resize(logits, (height, width), method="bilinear")
    return full if head is Head.LOGITS else _argmax(full)


def _nearest(source: int, target: int) -> np.ndarray:
    """Source index of each target index, half-pixel centres, int32 [target]."""
    return ((np.arange(target) + 0.5) * source / target).astype(np.int32)


def _argmax(logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

"""What stands between a network's logits and a file's output."""

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
        classes = _argmax(logits)
        nearest = tf.compat.v1.image.resize_nearest_neighbor(
            classes[..., tf.newaxis], (height, width), half_pixel_centers=True
        )
        return tf.squeeze(nearest, -1)
    full = tf.image.resize(logits, (height, width), method="bilinear")
    return full if head is Head.LOGITS else _argmax(full)


def _argmax(logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

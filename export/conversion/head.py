"""The heads: what a file computes between the network's logits and its output."""

import tensorflow as tf

from deeplab_tf.data.alignment import Alignment, nearest_indices
from deeplab_tf.graph.resize import resize_bilinear
from export.conversion.variants import Head


def apply_head(
    logits: tf.Tensor,
    head: Head,
    *,
    height: int,
    width: int,
    alignment: Alignment = Alignment.HALF_PIXEL,
    threshold: float = 0.0,
) -> tf.Tensor:
    """Adds a head to logits.

    Args:
        logits: float32 [1, h, w, num_classes], static shape.
        head: which head.
        height: of the network's input.
        width: of the network's input.
        alignment: resize convention that the network was trained with.
        threshold: of a network with one score: class 1 where the score is above it.

    Returns:
        float32 [1, height, width, num_classes] (LOGITS), `logits` (LOGITS_LOW), or
        uint8 [1, height, width] (ARGMAX, ARGMAX_HALF, ARGMAX_LOW).
    """
    if head is Head.LOGITS_LOW:
        return logits
    if head is Head.ARGMAX_HALF:
        logits = resize_bilinear(logits, ((height + 1) // 2, (width + 1) // 2), alignment=alignment)
    if head in (Head.ARGMAX_HALF, Head.ARGMAX_LOW):
        # The converter has no nearest resize of integers; columns first, so that the second
        # gather copies whole rows.
        columns = nearest_indices(logits.shape[2], width, alignment=alignment)
        rows = nearest_indices(logits.shape[1], height, alignment=alignment)
        classes = _argmax(logits, threshold)
        return tf.gather(tf.gather(classes, columns, axis=2), rows, axis=1)
    full = resize_bilinear(logits, (height, width), alignment=alignment)
    return full if head is Head.LOGITS else _argmax(full, threshold)


def _argmax(logits: tf.Tensor, threshold: float) -> tf.Tensor:
    if logits.shape[-1] == 1:  # of equal values the first counts: the background
        logits = tf.concat([tf.fill(logits.shape, threshold), logits], axis=-1)
    return tf.cast(tf.argmax(logits, axis=-1, output_type=tf.int32), tf.uint8)

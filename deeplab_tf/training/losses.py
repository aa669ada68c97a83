"""Pixel-wise cross-entropy with ignored pixels, label smoothing and class weights."""

import numpy as np
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.runs.choices import ClassWeighting


def class_weights(
    weighting: ClassWeighting, pixels: np.ndarray, *, present: np.ndarray
) -> np.ndarray:
    """Returns the weight of each class in the loss.

    Args:
        weighting: the rule.
        pixels: int64 [num_classes], pixels of each class, see `data.dataset.class_frequencies`.
        present: int64 [num_classes], pixels of the images that contain the class, see there.

    Returns:
        float32 [num_classes]. A class that never occurs has weight 1: it is never counted.
    """
    occurs = pixels > 0
    weights = np.ones(len(pixels), np.float32)
    if weighting is ClassWeighting.MEDIAN_FREQUENCY:
        frequency = pixels[occurs] / present[occurs]
        weights[occurs] = np.median(frequency) / frequency
    elif weighting is ClassWeighting.ENET:
        weights[occurs] = 1.0 / np.log(1.02 + pixels[occurs] / pixels.sum())
    return weights


def segmentation_loss(
    label: tf.Tensor,
    logits: tf.Tensor,
    *,
    weights: np.ndarray,
    label_smoothing: float = 0.0,
    alignment: Alignment = Alignment.HALF_PIXEL,
) -> tf.Tensor:
    """Returns the mean cross-entropy over labelled pixels, logits resized to the label's size.

    Args:
        label: uint8 [batch, height, width], 255 = ignored.
        logits: float32 [batch, h, w, num_classes]; resized bilinearly.
        weights: float32 [num_classes].
        label_smoothing: share of the target that is spread evenly over all classes.
        alignment: convention of the resize.

    Returns:
        float32 scalar: sum of weight * cross-entropy over the sum of weights; 0 if every pixel
        is ignored.
    """
    height, width = tf.unstack(tf.shape(label)[1:3])
    logits = resize_bilinear(tf.cast(logits, tf.float32), (height, width), alignment=alignment)
    valid = tf.not_equal(label, IGNORE_LABEL)
    target = tf.where(valid, tf.cast(label, tf.int32), 0)
    cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(target, logits)
    if label_smoothing:
        uniform = tf.reduce_logsumexp(logits, axis=-1) - tf.reduce_mean(logits, axis=-1)
        cross_entropy = (1.0 - label_smoothing) * cross_entropy + label_smoothing * uniform
    weight = tf.cast(valid, tf.float32)
    if np.any(weights != 1.0):
        weight *= tf.gather(tf.constant(weights, tf.float32), target)
    return tf.math.divide_no_nan(tf.reduce_sum(weight * cross_entropy), tf.reduce_sum(weight))

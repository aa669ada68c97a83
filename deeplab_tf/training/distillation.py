"""Distillation: a loss that compares with a teacher's logits, in addition to the labels.

    loss = (1 - weight) * cross-entropy + weight * distillation

Hinton et al. 2015, arXiv:1503.02531 (logits); Shu et al. 2021, arXiv:2011.13256 (channel-wise).
"""

import dataclasses

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.runs.choices import DistillLoss
from deeplab_tf.runs.config import Distillation

_LABELLED_SHARE = 0.5
_NO_PROBABILITY = -1e9
"""The logit of probability 0."""


def distillation_loss(
    label: tf.Tensor,
    student: tf.Tensor,
    *,
    teacher: tf.Tensor,
    options: Distillation,
    alignment: Alignment,
) -> tf.Tensor:
    """Returns the Kullback-Leibler divergence from the teacher's distribution to the student's.

    Ignored pixels, such as padding and the gaps of range images, do not count: a position of the
    student's logits counts if at least half of its labels are classes.

    Args:
        label: uint8 [batch, height, width], 255 = ignored.
        student: float32 [batch, h, w, classes], logits.
        teacher: float32 [batch, h2, w2, classes], logits; resized to the student's size.
        options: temperature T and which loss.
        alignment: convention of that resize, the teacher's.

    Returns:
        float32 scalar, times T^2 so that gradients do not shrink with T: the mean over pixels
        (LOGITS) or over images and classes (CHANNEL_WISE); 0 if every pixel is ignored.
    """
    _, height, width, _ = student.shape
    teacher = tf.stop_gradient(resize_bilinear(teacher, (height, width), alignment=alignment))
    labelled = tf.cast(tf.not_equal(label, IGNORE_LABEL), tf.float32)[..., tf.newaxis]
    counts = tf.image.resize(labelled, (height, width), method="area")[..., 0] >= _LABELLED_SHARE
    channel_wise = options.loss is DistillLoss.CHANNEL_WISE
    student, teacher = (
        tf.nn.log_softmax(
            _pixels_last(logits / options.temperature, counts)
            if channel_wise
            else logits / options.temperature
        )
        for logits in (student, teacher)
    )
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)
    if channel_wise:
        return options.temperature**2 * tf.reduce_mean(divergence)
    weight = tf.cast(counts, tf.float32)
    mean = tf.math.divide_no_nan(tf.reduce_sum(weight * divergence), tf.reduce_sum(weight))
    return options.temperature**2 * mean


def _pixels_last(logits: tf.Tensor, counts: tf.Tensor) -> tf.Tensor:
    """Returns float32 [batch, classes, pixels]; ignored pixels get no probability."""
    batch, height, width, classes = tf.unstack(tf.shape(logits))
    logits = tf.where(counts[..., tf.newaxis], logits, _NO_PROBABILITY)
    return tf.reshape(tf.transpose(logits, [0, 3, 1, 2]), [batch, classes, height * width])


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained float network whose logits are copied; it is not trained itself.

    Attributes:
        model: image float32 [batch, height, width, channels] -> logits, for crops.
        options: weight, temperature and loss.
        alignment: how its logits are resized.
    """

    model: keras.Model
    options: Distillation
    alignment: Alignment = Alignment.HALF_PIXEL

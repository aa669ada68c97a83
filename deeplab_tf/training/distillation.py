"""Learning from a teacher's logits beside the labels.

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
"""As a logit."""


def distillation_loss(label, student, *, teacher, options: Distillation, alignment: Alignment):
    """Kullback-Leibler divergence from the teacher's distribution to the student's.

    Ignored pixels, those of padding and of range images' gaps among them, do not count: a place
    of the student's logits does where at least half of its labels are classes.

    Args:
        label: uint8 [batch, height, width], 255 = ignored.
        student: float32 [batch, h, w, classes], logits.
        teacher: float32 [batch, h2, w2, classes], logits; brought to the student's size.
        options: temperature T and loss.
        alignment: the teacher's convention of that resize.

    Returns:
        float32 scalar, times T^2 so that gradients do not fade with T: the mean over pixels
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


def _pixels_last(logits, counts):
    """float32 [batch, classes, pixels]; pixels that do not count get no probability."""
    batch, height, width, classes = tf.unstack(tf.shape(logits))
    logits = tf.where(counts[..., tf.newaxis], logits, _NO_PROBABILITY)
    return tf.reshape(tf.transpose(logits, [0, 3, 1, 2]), [batch, classes, height * width])


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained float network that only looks on.

    Attributes:
        model: image float32 [batch, height, width, channels] -> logits; at the crop's size.
        options: how much of it counts.
        alignment: how its logits are brought to another size.
    """

    model: keras.Model
    options: Distillation
    alignment: Alignment = Alignment.HALF_PIXEL

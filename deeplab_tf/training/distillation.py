"""Learning from a teacher's logits beside the labels.

    loss = (1 - weight) * cross-entropy + weight * distillation

Hinton et al. 2015, arXiv:1503.02531 (logits); Shu et al. 2021, arXiv:2011.13256 (channel-wise).
"""

import dataclasses
import enum

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.resize import Alignment, resize_bilinear


class DistillLoss(enum.Enum):
    """What the student copies."""

    LOGITS = "logits"
    """At each pixel, the teacher's distribution over the classes."""
    CHANNEL_WISE = "channel_wise"
    """For each class, the teacher's distribution over the pixels."""


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How much of a teacher goes into the loss.

    Attributes:
        teacher: run folder; empty = no teacher.
        weight: of the distillation term, 0 to 1; the cross-entropy gets the rest.
        temperature: that logits of both are divided by.
        loss: which term.
    """

    teacher: str = ""
    weight: float = 0.3
    temperature: float = 1.0
    loss: DistillLoss = DistillLoss.LOGITS

    def __post_init__(self):
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill_weight must be 0 to 1; got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"distill_temperature must be positive; got {self.temperature}")

    def to_json(self) -> dict:
        return {**dataclasses.asdict(self), "loss": self.loss.value}

    @classmethod
    def from_json(cls, values: dict) -> "Distillation":
        return cls(**{**values, "loss": DistillLoss(values["loss"])})


def distillation_loss(student, teacher, options: Distillation, alignment: Alignment):
    """Kullback-Leibler divergence from the teacher's distribution to the student's.

    Args:
        student: float32 [batch, h, w, classes], logits.
        teacher: float32 [batch, h2, w2, classes], logits; brought to the student's size.
        options: temperature T and loss.
        alignment: convention of that resize.

    Returns:
        float32 scalar, times T^2 so that gradients do not fade with T: the mean over pixels
        (LOGITS) or over images and classes (CHANNEL_WISE).
    """
    _, height, width, classes = student.shape
    teacher = tf.stop_gradient(resize_bilinear(teacher, height, width, alignment))
    student, teacher = (
        _distributions(logits / options.temperature, options.loss, classes)
        for logits in (student, teacher)
    )
    divergence = tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)
    return options.temperature**2 * tf.reduce_mean(divergence)


def _distributions(logits, loss: DistillLoss, classes: int):
    """Log-probabilities, float32 [..., what sums to one]."""
    if loss is DistillLoss.CHANNEL_WISE:
        batch, height, width = tf.unstack(tf.shape(logits)[:3])
        logits = tf.reshape(tf.transpose(logits, [0, 3, 1, 2]), [batch, classes, height * width])
    return tf.nn.log_softmax(logits)


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained float network that only looks on.

    Attributes:
        model: image float32 [batch, height, width, channels] -> logits; at the crop's size.
        options: how much of it counts.
    """

    model: keras.Model
    options: Distillation

"""Learning-rate schedules and optimizers."""

import enum

import tensorflow as tf
import tf_keras as keras


class OptimizerName(enum.Enum):
    """Which optimizer takes the steps."""

    SGD = "sgd"
    """Nesterov-free momentum 0.9, DeepLab's recipe."""
    ADAMW = "adamw"
    """Adam with decoupled weight decay (Loshchilov & Hutter 2017, arXiv:1711.05101)."""


class PolyDecay(keras.optimizers.schedules.LearningRateSchedule):
    """base * (1 - step / total_steps)^power, after a linear warm-up (DeepLab's schedule)."""

    def __init__(self, base: float, total_steps: int, power: float = 0.9, warmup_steps: int = 0):
        self.base, self.total_steps = base, total_steps
        self.power, self.warmup_steps = power, warmup_steps

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        progress = tf.minimum(step / max(self.total_steps, 1), 1.0)
        rate = self.base * tf.pow(1.0 - progress, self.power)
        if self.warmup_steps:
            rate *= tf.minimum((step + 1.0) / self.warmup_steps, 1.0)
        return rate

    def get_config(self):
        return {
            "base": self.base,
            "total_steps": self.total_steps,
            "power": self.power,
            "warmup_steps": self.warmup_steps,
        }


def build_optimizer(
    name: OptimizerName, schedule: PolyDecay, weight_decay: float, average: float = 0.0
):
    """An optimizer whose decay is decoupled from the gradient and skips biases and batch norm.

    Keras multiplies decoupled decay by the learning rate, so it follows the schedule.

    Args:
        name, schedule, weight_decay: of the steps.
        average: decay of a moving average of the weights, kept beside them; 0 = none.
    """
    kept = {"use_ema": True, "ema_momentum": average} if average else {}
    if name is OptimizerName.SGD:
        optimizer = keras.optimizers.SGD(
            schedule, momentum=0.9, weight_decay=weight_decay or None, **kept
        )
    else:
        optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay, **kept)
    if weight_decay:
        optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta", "_min", "_max"])
    return optimizer

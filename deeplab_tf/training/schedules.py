"""Learning-rate schedules and optimizers."""

import math
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.runs.choices import OptimizerName, Schedule

_STEPS = ((0.5, 0.1), (0.75, 0.01))


class Decay(keras.optimizers.schedules.LearningRateSchedule):
    """The base rate times the schedule's factor, after a linear warm-up."""

    def __init__(
        self,
        base: float,
        total_steps: int,
        *,
        power: float = 0.9,
        warmup_steps: int = 0,
        schedule: Schedule = Schedule.POLY,
    ) -> None:
        """Keeps the settings.

        Args:
            base: rate at the start.
            total_steps: steps of the phase.
            power: power of the poly schedule.
            warmup_steps: steps of the linear warm-up, 0 = none.
            schedule: how the rate falls.
        """
        self.base, self.total_steps = base, total_steps
        self.power, self.warmup_steps = power, warmup_steps
        self.schedule = schedule

    def _factor(self, progress: tf.Tensor) -> tf.Tensor:
        if self.schedule is Schedule.POLY:
            return tf.pow(1.0 - progress, self.power)
        if self.schedule is Schedule.COSINE:
            return (1.0 + tf.cos(math.pi * progress)) / 2.0
        factor = tf.ones_like(progress)
        if self.schedule is Schedule.STEP:
            for start, value in _STEPS:
                factor = tf.where(progress >= start, value, factor)
        return factor

    def __call__(self, step: tf.Tensor | int) -> tf.Tensor:
        """Returns the rate of a step, float32 scalar."""
        step = tf.cast(step, tf.float32)
        progress = tf.minimum(step / max(self.total_steps, 1), 1.0)
        rate = self.base * self._factor(progress)
        if self.warmup_steps:
            rate *= tf.minimum((step + 1.0) / self.warmup_steps, 1.0)
        return rate

    def get_config(self) -> dict[str, Any]:
        """Returns the settings, as Keras serializes them."""
        return {
            "base": self.base,
            "total_steps": self.total_steps,
            "power": self.power,
            "warmup_steps": self.warmup_steps,
            "schedule": self.schedule.value,
        }


def build_optimizer(
    name: OptimizerName, schedule: Decay, *, weight_decay: float, average: float = 0.0
) -> keras.optimizers.Optimizer:
    """Builds an optimizer with decoupled weight decay that skips biases and batch norms.

    Keras multiplies decoupled decay by the learning rate, so it follows the schedule.

    Args:
        name: which optimizer.
        schedule: learning rate of each step.
        weight_decay: decay of the kernels.
        average: decay of a moving average of the weights, kept in addition to them; 0 = none.

    Returns:
        the optimizer, not yet built.
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

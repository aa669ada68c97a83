"""One phase of training: a model, its optimizer and the compiled step, under a strategy."""

import collections.abc
import contextlib
import json
import os

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.build import main_output
from deeplab_tf.runs.choices import Distribution
from deeplab_tf.runs.config import TrainingConfig
from deeplab_tf.training.distillation import Teacher, distillation_loss
from deeplab_tf.training.losses import segmentation_loss
from deeplab_tf.training.schedules import Decay, build_optimizer


def make_strategy(distribution: Distribution) -> tf.distribute.Strategy:
    """Returns the tf.distribute strategy of a run; multi_worker reads TF_CONFIG.

    Args:
        distribution: which strategy.

    Returns:
        the strategy.

    Raises:
        ValueError: multi_worker without TF_CONFIG.
    """
    if distribution is Distribution.MIRRORED:
        return tf.distribute.MirroredStrategy()
    if distribution is Distribution.MULTI_WORKER:
        if "task" not in json.loads(os.environ.get("TF_CONFIG") or "{}"):
            raise ValueError(
                "multi_worker needs the environment variable TF_CONFIG with cluster and task; "
                "use --distribution=none on one machine"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def freeze_batch_norms(model: keras.Model) -> None:
    """Makes all batch norms use their moving statistics and not be trained."""
    for layer in model.layers:
        inner = getattr(layer, "layer", layer)  # tfmot's wrapper contains the layer
        if isinstance(inner, keras.layers.BatchNormalization):
            inner.trainable = False


def learning_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns the trainable variables without those of frozen layers inside tfmot's wrappers.

    A wrapper keeps its own list of the trainable weights of the layer inside, made when it was
    built, so that scale and offset would still be trained if only the layer were frozen.
    """
    frozen = {
        id(weight)
        for layer in model.layers
        if not (inner := getattr(layer, "layer", layer)).trainable
        for weight in inner.weights
    }
    return [variable for variable in model.trainable_variables if id(variable) not in frozen]


class Stepper:
    """Takes optimizer steps; all its state is in `checkpoint`.

    Attributes:
        model: the network in training.
        step: int64 variable, number of steps of the whole run taken so far.
        schedule: learning rate of the phase.
        first_step: step at which the phase begins.
        checkpoint: tf.train.Checkpoint of model, optimizer and step.
    """

    def __init__(
        self,
        model: keras.Model,
        config: TrainingConfig,
        *,
        class_weights: np.ndarray,
        strategy: tf.distribute.Strategy,
        schedule: Decay,
        first_step: int,
        teacher: Teacher | None = None,
        average: float = 0.0,
    ) -> None:
        """Builds the optimizer and the step; to be called inside `strategy.scope()`.

        Args:
            model: the network, built inside the same scope.
            config: of the run.
            class_weights: float32 [num_classes].
            strategy: takes the steps.
            schedule: learning rate by the step in the phase.
            first_step: step of the run at which the phase begins.
            teacher: network whose logits are copied, or None.
            average: decay of a moving average of the weights; 0 = none.
        """
        self.model = model
        network = main_output(model)  # branches of further outputs are neither run nor trained
        self.schedule = schedule
        self.first_step = first_step
        self.step = tf.Variable(first_step, dtype=tf.int64, trainable=False, name="step")
        self._optimizer = build_optimizer(
            config.optimization.optimizer,
            schedule,
            weight_decay=config.optimization.weight_decay,
            average=average,
        )
        variables = learning_variables(network)
        self._learning = variables
        self._average = average
        self._optimizer.build(variables)
        self._strategy = strategy
        self.checkpoint = tf.train.Checkpoint(
            model=model, optimizer=self._optimizer, step=self.step
        )

        alignment = config.model.logits_alignment

        def replica_step(image: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            target = teacher.model(image, training=False) if teacher else None
            with tf.GradientTape() as tape:
                logits = network(image, training=True)
                loss = cross_entropy = segmentation_loss(
                    label,
                    logits,
                    weights=class_weights,
                    label_smoothing=config.optimization.label_smoothing,
                    alignment=alignment,
                )
                copied = tf.zeros([])
                if teacher:
                    weight = teacher.options.weight
                    copied = distillation_loss(
                        label,
                        logits,
                        teacher=target,
                        options=teacher.options,
                        alignment=teacher.alignment,
                    )
                    loss = (1 - weight) * cross_entropy + weight * copied
                scaled = loss / strategy.num_replicas_in_sync
            gradients = tape.gradient(scaled, variables)
            self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
            return tf.stack([loss, cross_entropy, copied])

        @tf.function
        def train_step(iterator: collections.abc.Iterator) -> tf.Tensor:
            losses = strategy.run(replica_step, args=next(iterator))
            self.step.assign_add(1)
            return strategy.reduce(tf.distribute.ReduceOp.MEAN, losses, axis=None)

        self._train_step = train_step

    def take(self, iterator: collections.abc.Iterator) -> tf.Tensor:
        """Takes one step.

        Args:
            iterator: over (image, label) batches, one of which is used.

        Returns:
            loss, cross-entropy and distillation term, float32 [3], mean over the workers.
        """
        return self._train_step(iterator)

    @contextlib.contextmanager
    def averaged(self) -> collections.abc.Iterator[keras.Model]:
        """Yields the model with the moving average of its weights, if one is kept."""
        if not self._average:
            yield self.model
            return
        current = [variable.numpy() for variable in self._learning]
        self._optimizer.finalize_variable_values(self._learning)
        try:
            yield self.model
        finally:
            for variable, value in zip(self._learning, current, strict=True):
                variable.assign(value)

    def learning_rate(self) -> float:
        """Returns the learning rate of the next step."""
        return float(self.schedule(int(self.step.numpy()) - self.first_step))

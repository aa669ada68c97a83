"""A training run from its configuration: float phase, quantization switch, quantized phase.

A run is a function of its configuration: batches depend on the seed and the step alone, the
switch on the last float checkpoint alone. So a run that was killed at any time resumes from its
last checkpoint and ends with the weights of a run that was never stopped.
"""

import collections.abc
import contextlib
import json
import os
import pathlib
import time
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from tqdm import tqdm

from deeplab_tf import bounded_file
from deeplab_tf.atomic_file import naming
from deeplab_tf.data.dataset import (
    SegmentationDataset,
    class_frequencies,
    hold_out,
    one_class_fault,
)
from deeplab_tf.data.pipeline import VALIDATION_WINDOW, TrainingPipeline
from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.registry import open_dataset
from deeplab_tf.metrics.confusion import iou_per_class, mean_iou, mean_true_iou
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat.apply import load_float_weights, quantize_aware
from deeplab_tf.quantization.qat.ranges import fill_ranges, learned_ranges
from deeplab_tf.quantization.qat.scheme import check_trainable
from deeplab_tf.quantization.qat.weight_ranges import fit_weight_ranges
from deeplab_tf.runs.choices import ClassWeighting, QatScheme
from deeplab_tf.runs.config import NEVER, TrainingConfig
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.training import losses
from deeplab_tf.training.distillation import Teacher
from deeplab_tf.training.pace import Pace
from deeplab_tf.training.schedules import Decay
from deeplab_tf.training.start import Initializer
from deeplab_tf.training.stepper import Stepper, freeze_batch_norms, make_strategy
from deeplab_tf.training.validation import Validator
from deeplab_tf.weights.matching import named_arrays
from deeplab_tf.weights.npz import read_weights, save_weights

ParityCheck = collections.abc.Callable[[keras.Model, np.ndarray], dict[str, float]]
"""Compares a quantization-aware model with the file made of it, on uint8 images."""
WORKER_PATIENCE_S = 120
"""Seconds that a worker waits for a file of the chief."""
CHOICE_KEY = "miou_true_classes"
"""Key of the history: mIoU over the classes that occur in the validation list. It chooses the best
weights: in a mean over all classes with a union, one pixel of an absent class costs points."""
PARITY_IMAGES = 4
"""Number of validation images, evenly spread, on which a file is compared with its network."""


def open_training_lists(
    config: TrainingConfig,
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Returns the training list and the validation list."""
    data, channels = config.data, config.model.channels
    training = open_dataset(data.dataset, data.data_dir, split=data.split).with_channels(channels)
    if data.holdout_images:
        return hold_out(training, data.holdout_images, seed=config.execution.seed)
    validation = open_dataset(data.dataset, data.data_dir, split=data.validation_split)
    return training, validation.with_channels(channels)


def _require_two_classes(training: SegmentationDataset, validation: SegmentationDataset) -> None:
    """Refuses a training list of one class; warns of such a validation list.

    Raises:
        ValueError: nothing can be learned.
    """
    if fault := one_class_fault(training):
        raise ValueError(f"{fault}; a network of one class learns nothing")
    if fault := one_class_fault(validation):
        logging.warning("%s; mIoU on it says nothing", fault)


def phase_steps(config: TrainingConfig) -> list[tuple[Phase, int, int]]:
    """Returns (phase, first step, step after the last) of each phase of a run."""
    switch = config.optimization.train_steps
    if config.quantization.delay_step != NEVER:
        switch = config.quantization.delay_step
    phases = [(Phase.FLOAT, 0, switch)]
    if config.quantization.delay_step != NEVER:
        phases.append((Phase.QUANTIZED, switch, config.optimization.train_steps))
    return phases


def _worker_number(strategy: tf.distribute.Strategy) -> int:
    """Returns 0 for the worker that writes: the chief if TF_CONFIG names one, else worker 0."""
    resolver = strategy.cluster_resolver
    if resolver is None:
        return 0
    number = resolver.task_id or 0
    behind_chief = resolver.task_type == "worker" and "chief" in resolver.cluster_spec().jobs
    return number + int(behind_chief)


class TrainingRun:
    """One run in its folder.

    Attributes:
        config: what to do.
        folder: where its files are.
        training: the training list.
        validation: the validation list.
        strategy: takes the steps.
        pipeline: makes the training batches.
    """

    def __init__(
        self,
        config: TrainingConfig,
        folder: RunFolder,
        *,
        initialize: Initializer | None = None,
        known_ranges: dict[str, tuple[float, float]] | None = None,
        make_teacher: collections.abc.Callable[[TrainingConfig], Teacher] | None = None,
        check_parity: ParityCheck | None = None,
    ) -> None:
        """Opens the data and prepares the folder.

        Args:
            config: what to do.
            folder: where to write its files.
            initialize: function of (model, batches) that loads the first weights into the new float
                network, or None. batches: an iterator over normalized training crops, for
                batch-norm statistics.
            known_ranges: {layer: (min, max)} that the quantizers start with; the rest is
                calibrated.
            make_teacher: function of the configuration that builds the Teacher, or None.
            check_parity: function of (quantization-aware model, uint8 images of its size) that
                compares it with the file made of it and returns {measure: value}, or None.

        Raises:
            ValueError: the model has another number of classes than the data set, or the training
                list holds one class only.
            FileNotFoundError: the data set is not there.
            FileExistsError: the folder holds another run.
            RuntimeError: another process is training in the folder.
        """
        self.config, self.folder = config, folder
        self._initialize = initialize
        self._known_ranges = known_ranges or {}
        self._make_teacher = make_teacher
        self._check_parity = check_parity
        self.training, self.validation = open_training_lists(config)
        if self.training.label_set.num_classes != config.model.num_classes:
            raise ValueError(
                f"the model has {config.model.num_classes} classes, {config.data.dataset} has "
                f"{self.training.label_set.num_classes}"
            )
        _require_two_classes(self.training, self.validation)
        keras.utils.set_random_seed(config.execution.seed)
        if config.execution.deterministic:
            tf.config.experimental.enable_op_determinism()
        self.strategy = make_strategy(config.execution.distribution)
        self._worker = _worker_number(self.strategy)
        self._lock = contextlib.ExitStack()
        if self._is_chief:
            self._lock.enter_context(folder.lock())
            folder.sweep()
            folder.prepare(config, self.training.label_set)
        self.pipeline = TrainingPipeline(
            self.training,
            config.data.preprocessing,
            augmentation=config.data.augmentation,
            crop_height=config.data.crop_height,
            crop_width=config.data.crop_width,
            batch_size=config.data.batch_size,
            seed=config.execution.seed,
            cache_mb=config.data.cache_mb,
        )
        weighting = config.optimization.class_weighting
        self._class_weights = (
            np.ones(config.model.num_classes, np.float32)
            if weighting is ClassWeighting.NONE
            else _class_weights(weighting, self.training)
        )

    @property
    def _is_chief(self) -> bool:
        return self._worker == 0

    def train(self) -> float:
        """Trains to the end, from the last checkpoint if there is one.

        Returns:
            validation mIoU at the last validation.
        """
        score = float("nan")
        if self._is_chief:
            logging.info("%s", self._summary())
        with self._lock:
            for phase, first_step, last_step in phase_steps(self.config):
                score = self._train_phase(phase, first_step, last_step=last_step)
        return score

    def _summary(self) -> str:
        """What will be done, in one line."""
        config = self.config
        steps, switch = config.optimization.train_steps, config.quantization.delay_step
        if switch == NEVER:
            plan = "float"
        else:
            plan = f"float to step {switch}, then " if switch else ""
            plan += "quantization-aware"
        return (
            f"{config.model.network}, {config.model.num_classes} classes: {steps} steps of "
            f"{config.data.batch_size} crops {config.data.crop_height}x{config.data.crop_width} "
            f"from {len(self.training)} images of {config.data.dataset} ({self.training.split}), "
            f"{plan}; mIoU every {config.intervals.validation} steps on "
            f"{len(self.validation)} images ({self.validation.split})"
        )

    def _train_phase(self, phase: Phase, first_step: int, *, last_step: int) -> float:
        if phase is not self._last_phase and self.folder.weights(phase).is_file():
            return float("nan")  # finished before
        latest = tf.train.latest_checkpoint(self.folder.checkpoints(phase))
        with self.strategy.scope():
            model = self.build(phase, *self.config.data.crop_size)
        if not latest:
            self._start(model, phase)
        with self.strategy.scope():  # averages start at the weights that the stepper gets
            stepper = self._new_stepper(model, phase, first_step=first_step, last_step=last_step)
        manager = tf.train.CheckpointManager(
            stepper.checkpoint, self._checkpoint_folder(phase), max_to_keep=2
        )
        if latest:
            stepper.checkpoint.restore(latest).assert_existing_objects_matched()
            logging.info("%s phase resumes from step %d", phase.value, int(stepper.step.numpy()))
        score = self._take_steps(stepper, manager, phase=phase, last_step=last_step)
        # Reading gathers the statistics of several workers: all must read, one writes.
        with stepper.averaged() as model:
            if phase is Phase.QUANTIZED:
                fit_weight_ranges(model)
            arrays = named_arrays(model)
        if self._is_chief:
            save_weights(arrays, self.folder.weights(phase))
        self._await(self.folder.weights(phase))
        return score

    def _await(self, path: pathlib.Path) -> None:
        """Waits for a file that the chief writes on the shared file system."""
        deadline = time.monotonic() + WORKER_PATIENCE_S
        while not path.is_file():
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"{path} did not appear in {WORKER_PATIENCE_S} s; workers share one --run_dir"
                )
            time.sleep(0.1)

    @property
    def _last_phase(self) -> Phase:
        return phase_steps(self.config)[-1][0]

    def _checkpoint_folder(self, phase: Phase) -> str:
        folder = self.folder.checkpoints(phase)
        # Every worker must take part in saving; only the chief's files are kept.
        return str(folder if self._is_chief else folder.parent / f"worker{self._worker}")

    def _new_stepper(
        self, model: keras.Model, phase: Phase, *, first_step: int, last_step: int
    ) -> Stepper:
        quantized = phase is Phase.QUANTIZED
        optimization = self.config.optimization
        of_phase = self.config.quantization if quantized else optimization
        if of_phase.freeze_batch_norm:
            freeze_batch_norms(model)
        schedule = Decay(
            of_phase.learning_rate,
            last_step - first_step,
            power=optimization.decay_power,
            warmup_steps=optimization.warmup_steps if first_step == 0 else 0,
            schedule=optimization.schedule,
        )
        teacher = self._make_teacher(self.config) if self._make_teacher else None
        return Stepper(
            model,
            self.config,
            class_weights=self._class_weights,
            strategy=self.strategy,
            schedule=schedule,
            first_step=first_step,
            teacher=teacher,
            average=self.config.quantization.weight_average if quantized else 0.0,
        )

    def build(self, phase: Phase, height: int, width: int) -> keras.Model:
        """Builds the network of a phase for a size, with new weights."""
        model = build_network(self.config.model, (height, width))
        quantization = self.config.quantization
        if quantization.delay_step != NEVER and quantization.scheme is QatScheme.PLANNED:
            check_trainable(model)  # before the float phase, not after it
        if phase is Phase.QUANTIZED:
            model = quantize_aware(
                model,
                self.config.data.preprocessing.input_range,
                qat_scheme=quantization.scheme,
            )
        return model

    def _start(self, model: keras.Model, phase: Phase) -> None:
        """Loads the first weights of a phase."""
        if phase is Phase.QUANTIZED:
            self._switch(model)
        elif self._initialize is not None:
            self._initialize(model, self.calibration_batches())

    def calibration_batches(self) -> collections.abc.Iterator[tf.Tensor]:
        """Yields normalized training crops, float32 [batch, crop_height, crop_width, channels]."""
        count = -(-self.config.quantization.calibration_images // self.config.data.batch_size)
        for image, _ in self.pipeline.batches(0).take(count):
            yield image

    def _switch(self, model: keras.Model) -> None:
        """Copies the float weights into the quantization-aware graph and calibrates its ranges."""
        source = self.build(Phase.FLOAT, *self.config.data.crop_size)
        arrays = read_weights(self.folder.weights(Phase.FLOAT))
        if self.config.quantization.scheme is QatScheme.TFMOT_DEFAULT:
            load_float_weights(model, arrays)
            logging.info("quantization-aware by tfmot's defaults from now on; no calibration")
            return
        logging.info(
            "activation ranges are collected from %d images",
            self.config.quantization.calibration_images,
        )
        batches = self.calibration_batches()
        imported = {} if self.config.quantization.scheme.is_stock else self._known_ranges
        known = fill_ranges(model, source, arrays=arrays, batches=batches, known=imported)
        kept = f"; {known} ranges of the imported file" if known else ""
        logging.info("quantization-aware from now on%s", kept)

    def _take_steps(
        self, stepper: Stepper, manager: tf.train.CheckpointManager, *, phase: Phase, last_step: int
    ) -> float:
        intervals = self.config.intervals
        step = int(stepper.step.numpy())
        iterator = iter(self._distributed_batches(step))
        validator = self._validator(phase) if self._is_chief else None
        writer = tf.summary.create_file_writer(str(self.folder.events / phase.value))
        best = self._best_so_far(phase)
        score = float("nan")
        ranges: dict[str, tuple[float, float]] = {}
        bar = tqdm(
            total=last_step,
            initial=step,
            desc=phase.value,
            unit="step",
            disable=not self._is_chief or None,
        )
        recent: list[tf.Tensor] = []  # losses since the last summary
        pace = Pace(self.config.optimization.train_steps)
        with writer.as_default(), bar:
            while step < last_step:
                recent.append(stepper.take(iterator))
                step += 1
                bar.update()
                pace.after_step(step)
                if step % intervals.summary == 0 or step == last_step:
                    loss = self._summarize(stepper, recent, phase=phase, step=step, pace=pace)
                    recent = []
                    bar.set_postfix(loss=f"{loss:.4f}")
                    if phase is Phase.QUANTIZED:
                        ranges = _write_ranges(stepper.model, ranges, step=step)
                validates = step % intervals.validation == 0 or step == last_step
                compares = self._compares(phase, step, last_step=last_step)
                with pace.paused():
                    if validates or compares:
                        with stepper.averaged() as model:
                            if phase is Phase.QUANTIZED:
                                fit_weight_ranges(model)
                            weights = model.get_weights()
                        if validator is not None and compares:
                            self._compare(validator, weights, step=step)
                        if validator is not None and validates:
                            line = self._validate(validator, weights, phase=phase, step=step)
                            score = line["miou"]
                            if line[CHOICE_KEY] > best:  # before the history, which resuming reads
                                best = line[CHOICE_KEY]
                                arrays = named_arrays(validator.model)
                                save_weights(arrays, self.folder.best_weights(phase))
                            self._append_to_history(line)
                    if step % intervals.checkpoint == 0 or step == last_step:
                        manager.save(checkpoint_number=step)
        return score

    def _summarize(
        self, stepper: Stepper, losses: list[tf.Tensor], *, phase: Phase, step: int, pace: Pace
    ) -> float:
        """Writes the mean of the losses to TensorBoard and the log, and returns it."""
        loss, cross_entropy, distillation = tf.reduce_mean(losses, 0).numpy().tolist()
        if not np.isfinite(loss):
            raise RuntimeError(
                f"loss is {loss} at step {step}; lower the learning rate and "
                "train again in a new --run_dir"
            )
        tf.summary.scalar("loss", loss, step)
        tf.summary.scalar("loss_cross_entropy", cross_entropy, step)
        if self._make_teacher:
            tf.summary.scalar("loss_distillation", distillation, step)
        tf.summary.scalar("learning_rate", stepper.learning_rate(), step)
        total = self.config.optimization.train_steps
        text = f"{phase.value} step {step} of {total}: loss {loss:.4f}"
        logging.info("%s", ", ".join(filter(None, (text, pace.report(step)))))
        return loss

    def _distributed_batches(self, step: int) -> collections.abc.Iterable:
        if self.strategy.num_replicas_in_sync == 1:
            return self.pipeline.batches(step)
        return self.strategy.distribute_datasets_from_function(
            lambda context: self.pipeline.batches(
                step,
                context.input_pipeline_id,
                context.num_input_pipelines,
                context.num_replicas_in_sync,
            )
        )

    def _validator(self, phase: Phase) -> Validator:
        size = np.minimum(self.validation.image(0).shape[:2], VALIDATION_WINDOW)
        height, width = self.config.model.padded_size(*size.tolist())
        return Validator(
            self.build(phase, height, width),
            self.validation,
            preprocessing=self.config.data.preprocessing,
            alignment=self.config.model.logits_alignment,
        )

    def _validate(
        self, validator: Validator, weights: list[np.ndarray], *, phase: Phase, step: int
    ) -> dict[str, Any]:
        started = time.monotonic()
        matrix = validator.confusion_matrix(weights)
        score, counted = mean_iou(matrix)
        seconds = time.monotonic() - started
        logging.info(
            "%s step %d: mIoU %.4f over %d classes, %s list of %d images (%.0f s)",
            phase.value,
            step,
            score,
            counted,
            self.validation.split,
            len(self.validation),
            seconds,
        )
        tf.summary.scalar("validation_miou", score, step)
        label_set = self.training.label_set
        image, label, prediction = validator.pictures()
        if image.shape[-1] == 3:
            pixels = np.clip(image * 128.0 + 128.0, 0, 255).astype(np.uint8)
            rows = np.concatenate(
                [pixels, label_set.colorize(label), label_set.colorize(prediction)], axis=2
            )
            tf.summary.image("photo_truth_prediction", rows, step, max_outputs=len(rows))
        line = {
            "phase": phase.value,
            "step": step,
            "miou": score,
            "classes": counted,
            CHOICE_KEY: mean_true_iou(matrix),
            "iou": dict(zip(label_set.names, iou_per_class(matrix).tolist(), strict=True)),
        }
        return line

    def _compares(self, phase: Phase, step: int, *, last_step: int) -> bool:
        interval = self.config.intervals.parity
        if phase is not Phase.QUANTIZED or self._check_parity is None or not interval:
            return False
        return step % interval == 0 or step == last_step

    def _compare(self, validator: Validator, weights: list[np.ndarray], *, step: int) -> None:
        """Reports how the file made of these weights differs from the network in training."""
        assert self._check_parity is not None  # see _compares
        validator.model.set_weights(weights)
        _, height, width, _ = validator.model.input_shape
        count = min(PARITY_IMAGES, len(self.validation))
        chosen = np.linspace(0, len(self.validation) - 1, count).astype(int)
        images = [place(self.validation.image(int(index)), (height, width))[0] for index in chosen]
        try:
            measures = self._check_parity(validator.model, np.stack(images))
        except (RuntimeError, ValueError, OSError) as error:  # not an error of the training
            logging.warning("step %d: no file to compare the network with: %s", step, error)
            return
        for name, value in measures.items():
            tf.summary.scalar(f"parity/{name}", value, step)
        text = ", ".join(f"{name} {value:.4f}" for name, value in measures.items())
        logging.info("step %d, file against network on %d images: %s", step, count, text)
        self._append_to_history({"phase": Phase.QUANTIZED.value, "step": step, "parity": measures})

    def _append_to_history(self, line: dict[str, Any]) -> None:
        with naming(self.folder.history), self.folder.history.open("a") as stream:
            stream.write(json.dumps(line) + os.linesep)

    def _best_so_far(self, phase: Phase) -> float:
        if not (self.folder.history.is_file() and self.folder.best_weights(phase).is_file()):
            return -1.0
        scores = [-1.0]
        for line in bounded_file.read_text(self.folder.history).splitlines():
            try:
                values = json.loads(line)
                # Older runs lack the key; their mIoU is never larger than it.
                score = float(values.get(CHOICE_KEY, values.get("miou", float("nan"))))
                if values["phase"] == phase.value and np.isfinite(score):
                    scores.append(score)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # the last line of a killed run may be cut
        return max(scores)


def _write_ranges(
    model: keras.Model, before: dict[str, tuple[float, float]], *, step: int
) -> dict[str, tuple[float, float]]:
    """Writes the activation ranges and their largest change since `before` to TensorBoard.

    The change is relative to the width of the range: ranges have converged when it is small.
    """
    ranges = learned_ranges(model)
    for name, (low, high) in ranges.items():
        tf.summary.scalar(f"range_min/{name}", low, step)
        tf.summary.scalar(f"range_max/{name}", high, step)
    changes = [
        max(abs(low - before[name][0]), abs(high - before[name][1])) / max(high - low, 1e-12)
        for name, (low, high) in ranges.items()
        if name in before
    ]
    if changes:
        tf.summary.scalar("largest_range_change", max(changes), step)
    return ranges


def _class_weights(weighting: ClassWeighting, training: SegmentationDataset) -> np.ndarray:
    pixels, present = class_frequencies(training)
    return losses.class_weights(weighting, pixels, present=present)

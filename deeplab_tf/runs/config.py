"""Everything that decides what a training run does; stored as `config.json` in its folder."""

import dataclasses
import enum
import json
import math
import pathlib

from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.models.config import ModelConfig
from deeplab_tf.runs.choices import (
    ClassWeighting,
    DistillLoss,
    Distribution,
    OptimizerName,
    QatScheme,
    Schedule,
)

NEVER = -1
"""Value of quantize_delay_step: never quantize."""


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


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        model: the network.
        dataset, data_dir, split: the training list.
        validation_split: list whose mIoU is reported during training and chooses the best
            checkpoint; "holdout" for the samples held out of the training list.
        holdout_images: samples held out of the training list, chosen by `seed`.
        preprocessing, augmentation: see `deeplab_tf.data`.
        crop_height, crop_width: size of a training example.
        batch_size: examples a step, over all workers.
        train_steps: steps in all, both phases.
        quantize_delay_step: float before this step, quantization-aware from it on; 0 = from the
            first step, -1 = never.
        quantize_calibration_images: training photos whose activations fill the quantizers'
            ranges at the switch.
        learning_rate: base rate of the float phase, decayed over that phase.
        quantize_learning_rate: base rate of the quantization-aware phase.
        schedule: how the rate falls over each phase.
        decay_power, warmup_steps: of poly decay; the warm-up belongs to the first phase.
        label_smoothing: share of the target spread over all classes.
        freeze_batch_norm: keep batch-norm statistics and parameters in the float phase.
        quantize_freeze_batch_norm: likewise in the quantization-aware phase.
        quantize_scheme: which tensors are quantized, and how.
        quantize_weight_average: decay of a moving average of the weights in that phase, which is
            what is validated and kept; 0 = none.
        parity_interval: steps between conversions in that phase, each compared with the network
            in training; 0 = none.
        distillation: the teacher, if any.
        sensor: that made the range images; None for photos.
        init_from: run folder or weights file to start from, layer by layer.
        backbone_weights: "imagenet", "none" or a file.
        deterministic: bit-for-bit repeatable on one CPU, at some cost in speed.
        validation_interval, checkpoint_interval, summary_interval: steps between.
        cache_mb: memory for decoded training photos.
    """

    model: ModelConfig
    dataset: str
    data_dir: str = ""
    split: str = "train"
    validation_split: str = "val"
    holdout_images: int = 0
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    crop_height: int = 256
    crop_width: int = 256
    batch_size: int = 8
    train_steps: int = 3000
    quantize_delay_step: int = NEVER
    quantize_calibration_images: int = 64
    optimizer: OptimizerName = OptimizerName.SGD
    learning_rate: float = 0.02
    quantize_learning_rate: float = 0.001
    schedule: Schedule = Schedule.POLY
    decay_power: float = 0.9
    warmup_steps: int = 0
    weight_decay: float = 4e-5
    label_smoothing: float = 0.0
    class_weighting: ClassWeighting = ClassWeighting.NONE
    freeze_batch_norm: bool = False
    quantize_freeze_batch_norm: bool = True
    quantize_scheme: QatScheme = QatScheme.PLANNED
    quantize_weight_average: float = 0.0
    parity_interval: int = 0
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    sensor: Sensor | None = None
    init_from: str = ""
    backbone_weights: str = "none"
    seed: int = 0
    deterministic: bool = False
    distribution: Distribution = Distribution.NONE
    validation_interval: int = 500
    checkpoint_interval: int = 200
    summary_interval: int = 50
    cache_mb: int = 2048

    def __post_init__(self):
        self.model.check_size(self.crop_height, self.crop_width)
        if self.train_steps < 1:
            raise ValueError(f"train_steps must be at least 1; got {self.train_steps}")
        if not NEVER <= self.quantize_delay_step <= self.train_steps:
            raise ValueError(
                "quantize_delay_step must be -1 (never) or 0 to train_steps "
                f"({self.train_steps}); got {self.quantize_delay_step}"
            )
        for name in (
            "batch_size",
            "validation_interval",
            "checkpoint_interval",
            "summary_interval",
            "quantize_calibration_images",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in ("learning_rate", "quantize_learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} must be positive; got {getattr(self, name)}")
        if not 0 <= self.quantize_weight_average < 1:
            raise ValueError(
                "quantize_weight_average must be 0 (none) to below 1; got "
                f"{self.quantize_weight_average}"
            )
        for name in ("weight_decay", "decay_power", "warmup_steps", "parity_interval"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        random_start = not self.init_from and self.backbone_weights == "none"
        if self.quantize_delay_step == 0 and self.quantize_freeze_batch_norm and random_start:
            raise ValueError(
                "quantize_delay_step=0 from random weights would train on batch norms that were "
                "never fitted; give --noquantize_freeze_batch_norm, or --init_from"
            )
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be 0 to below 1; got {self.label_smoothing}")
        if (self.validation_split == "holdout") != (self.holdout_images > 0):
            raise ValueError(
                "holdout_images and validation_split=holdout belong together; got "
                f"holdout_images={self.holdout_images}, validation_split={self.validation_split}"
            )
        if self.preprocessing.channels != self.model.channels:
            raise ValueError(
                f"preprocessing has {self.preprocessing.channels} channels, "
                f"the model {self.model.channels}; give one mean and std a channel"
            )

    def to_json(self) -> dict:
        values = {
            field.name: getattr(self, field.name).value
            if isinstance(getattr(self, field.name), enum.Enum)
            else getattr(self, field.name)
            for field in dataclasses.fields(self)
        }
        return values | {
            "model": self.model.to_json(),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "augmentation": dataclasses.asdict(self.augmentation),
            "distillation": self.distillation.to_json(),
            "sensor": self.sensor.to_json() if self.sensor else None,
        }

    @classmethod
    def from_json(cls, values: dict) -> "TrainingConfig":
        """Raises ValueError for an unknown key."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := set(values) - known:
            raise ValueError(f"unknown training keys {sorted(unknown)}; known: {sorted(known)}")
        preprocessing = {name: tuple(value) for name, value in values["preprocessing"].items()}
        return cls(
            **{
                **values,
                "model": ModelConfig.from_json(values["model"]),
                "preprocessing": Preprocessing(**preprocessing),
                "augmentation": Augmentation(**values["augmentation"]),
                "distillation": Distillation.from_json(values["distillation"])
                if "distillation" in values
                else Distillation(),
                "sensor": Sensor.from_json(values["sensor"]) if values.get("sensor") else None,
                "optimizer": OptimizerName(values["optimizer"]),
                "schedule": Schedule(values.get("schedule", Schedule.POLY.value)),
                "quantize_scheme": QatScheme(
                    values.get("quantize_scheme", QatScheme.PLANNED.value)
                ),
                "class_weighting": ClassWeighting(values["class_weighting"]),
                "distribution": Distribution(values["distribution"]),
            }
        )


def read_config(run_dir: pathlib.Path) -> TrainingConfig:
    """Reads `config.json` of a run folder.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: not the JSON of a training run.
    """
    path = pathlib.Path(run_dir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not a run folder; give the --run_dir of a training run")
    try:
        return TrainingConfig.from_json(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the configuration of a training run ({error})") from error

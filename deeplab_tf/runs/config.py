"""Everything that decides what a training run does; stored as `config.json` in its folder.

In code the settings are in groups. Outside, in `config.json` and on the command line, each has one
flat name: `config.quantization.delay_step` is `quantize_delay_step`.
"""

import collections.abc
import dataclasses
import enum
import math
import pathlib
from typing import Any, ClassVar

from deeplab_tf import bounded_file
from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.field_types import check_field_types
from deeplab_tf.models.config import ModelConfig
from deeplab_tf.runs.choices import (
    ClassWeighting,
    DistillLoss,
    Distribution,
    OptimizerName,
    QatScheme,
    Schedule,
)

LARGEST_RATE = 1000
"""Largest learning rate, weight decay and power of a schedule."""
MAX_CROP = 16384
"""Largest height and width of a training example."""
NEVER = -1
"""Value of quantize_delay_step: never quantize."""


class _Group:
    """Settings that belong together.

    Attributes:
        key: how a field's flat name is made from its name.
    """

    key: ClassVar[str] = "{}"

    def __post_init__(self) -> None:
        check_field_types(self, self.key)

    def _at_least(self, least: int, *names: str) -> None:
        for name in names:
            if getattr(self, name) < least:
                raise ValueError(
                    f"{self.key.format(name)} must be at least {least}; got {getattr(self, name)}"
                )

    def _positive(self, *names: str) -> None:
        for name in names:
            if not 0 < getattr(self, name) <= LARGEST_RATE:
                raise ValueError(
                    f"{self.key.format(name)} must be positive, at most {LARGEST_RATE}; got "
                    f"{getattr(self, name)}"
                )

    def _not_negative(self, *names: str, most: float = math.inf) -> None:
        for name in names:
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(
                    f"{self.key.format(name)} must not be negative"
                    + (f", at most {most}" if most < math.inf else "")
                    + f"; got {getattr(self, name)}"
                )


@dataclasses.dataclass(frozen=True)
class DataConfig(_Group):
    """What is trained and validated on.

    Attributes:
        dataset: key of `data.registry.DATASETS`.
        data_dir: folder of the data set.
        split: training list.
        validation_split: list whose mIoU is reported during training and chooses the best
            checkpoint; "holdout" for the samples held out of the training list.
        holdout_images: number of samples held out of the training list, chosen by the seed.
        preprocessing: how pixels are normalized.
        augmentation: random changes of a training example.
        sensor: sensor that recorded the range images; None for photos.
        crop_height: height of a training example.
        crop_width: width of a training example.
        batch_size: examples per step, over all workers.
        cache_mb: memory for decoded training images.
    """

    dataset: str
    data_dir: str = ""
    split: str = "train"
    validation_split: str = "val"
    holdout_images: int = 0
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    sensor: Sensor | None = None
    crop_height: int = 256
    crop_width: int = 256
    batch_size: int = 8
    cache_mb: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "batch_size", "crop_height", "crop_width")
        self._at_least(0, "holdout_images", "cache_mb")
        if max(self.crop_size) > MAX_CROP:
            raise ValueError(f"expected a crop of at most {MAX_CROP}, got {self.crop_size}")
        if (self.validation_split == "holdout") != (self.holdout_images > 0):
            raise ValueError(
                "holdout_images and validation_split=holdout belong together; got "
                f"holdout_images={self.holdout_images}, validation_split={self.validation_split}"
            )

    @property
    def crop_size(self) -> tuple[int, int]:
        """(height, width) of a training example."""
        return self.crop_height, self.crop_width


@dataclasses.dataclass(frozen=True)
class OptimizationConfig(_Group):
    """How the steps are taken.

    Attributes:
        train_steps: total number of steps, of both phases.
        optimizer: which optimizer.
        learning_rate: base rate of the float phase, decayed over that phase.
        schedule: how the rate falls over each phase.
        decay_power: power of the poly schedule.
        warmup_steps: steps of linear warm-up in the first phase.
        weight_decay: decoupled decay of the kernels.
        label_smoothing: share of the target that is spread over all classes.
        class_weighting: how rare classes are weighted in the loss.
        freeze_batch_norm: keep batch-norm statistics and parameters in the float phase.
    """

    train_steps: int = 3000
    optimizer: OptimizerName = OptimizerName.SGD
    learning_rate: float = 0.02
    schedule: Schedule = Schedule.POLY
    decay_power: float = 0.9
    warmup_steps: int = 0
    weight_decay: float = 4e-5
    label_smoothing: float = 0.0
    class_weighting: ClassWeighting = ClassWeighting.NONE
    freeze_batch_norm: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "train_steps")
        self._positive("learning_rate")
        self._not_negative("weight_decay", "decay_power", most=LARGEST_RATE)
        self._not_negative("warmup_steps")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be 0 to below 1; got {self.label_smoothing}")


@dataclasses.dataclass(frozen=True)
class QuantizationConfig(_Group):
    """The quantization-aware phase.

    Attributes:
        delay_step: float before this step, quantization-aware from it; 0 = from the first step,
            -1 = never.
        calibration_images: training images whose activations fill the quantizers' ranges at the
            switch.
        learning_rate: base rate of this phase.
        freeze_batch_norm: keep batch-norm statistics and parameters in this phase.
        scheme: which tensors are quantized, and how.
        weight_average: decay of a moving average of the weights in this phase, which is what is
            validated and kept; 0 = none.
    """

    key: ClassVar[str] = "quantize_{}"
    delay_step: int = NEVER
    calibration_images: int = 64
    learning_rate: float = 0.001
    freeze_batch_norm: bool = True
    scheme: QatScheme = QatScheme.PLANNED
    weight_average: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "calibration_images")
        self._positive("learning_rate")
        if not 0 <= self.weight_average < 1:
            raise ValueError(
                f"quantize_weight_average must be 0 (none) to below 1; got {self.weight_average}"
            )


@dataclasses.dataclass(frozen=True)
class StartConfig(_Group):
    """Where the first weights come from.

    Attributes:
        init_from: run folder or weights file to start from, layer by layer.
        backbone_weights: "imagenet", "none" or a file.
    """

    init_from: str = ""
    backbone_weights: str = "none"

    @property
    def is_random(self) -> bool:
        """Whether all weights are random."""
        return not self.init_from and self.backbone_weights == "none"


@dataclasses.dataclass(frozen=True)
class ExecutionConfig(_Group):
    """How the run is executed.

    Attributes:
        seed: of weights, order, augmentation and hold-out.
        deterministic: repeatable bit for bit on one CPU; slower.
        distribution: which tf.distribute strategy.
    """

    seed: int = 0
    deterministic: bool = False
    distribution: Distribution = Distribution.NONE

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(0, "seed")


@dataclasses.dataclass(frozen=True)
class IntervalConfig(_Group):
    """Number of steps between events.

    Attributes:
        validation: steps between validations.
        checkpoint: steps between checkpoints.
        summary: steps between summaries for TensorBoard.
        parity: steps between conversions in the quantization-aware phase, each compared with the
            network in training; 0 = none.
    """

    key: ClassVar[str] = "{}_interval"
    validation: int = 500
    checkpoint: int = 200
    summary: int = 50
    parity: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._at_least(1, "validation", "checkpoint", "summary")
        self._not_negative("parity")


@dataclasses.dataclass(frozen=True)
class Distillation:
    """How much of a teacher goes into the loss.

    Attributes:
        teacher: run folder; empty = no teacher.
        weight: weight of the distillation term, 0 to 1; the cross-entropy gets the rest.
        temperature: divisor of the logits of both networks.
        loss: which term.
    """

    teacher: str = ""
    weight: float = 0.3
    temperature: float = 1.0
    loss: DistillLoss = DistillLoss.LOGITS

    def __post_init__(self) -> None:
        check_field_types(self, "distill_{}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"distill_weight must be 0 to 1; got {self.weight}")
        if not self.temperature > 0:
            raise ValueError(f"distill_temperature must be positive; got {self.temperature}")

    def to_json(self) -> dict[str, Any]:
        """Returns the values as JSON has them."""
        return {**dataclasses.asdict(self), "loss": self.loss.value}

    @classmethod
    def from_json(cls, values: collections.abc.Mapping[str, Any]) -> "Distillation":
        """Reads what `to_json` returned.

        Args:
            values: the JSON object.

        Returns:
            the settings.

        Raises:
            ValueError: a bad value.
        """
        return cls(**{**values, "loss": DistillLoss(values["loss"])})


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """A training run.

    Attributes:
        model: the network.
        data: what is trained and validated on.
        optimization: how the steps are taken.
        quantization: the quantization-aware phase.
        distillation: the teacher, if any.
        start: where the first weights come from.
        execution: how the run is executed.
        intervals: number of steps between events.
    """

    model: ModelConfig
    data: DataConfig
    optimization: OptimizationConfig = dataclasses.field(default_factory=OptimizationConfig)
    quantization: QuantizationConfig = dataclasses.field(default_factory=QuantizationConfig)
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    execution: ExecutionConfig = dataclasses.field(default_factory=ExecutionConfig)
    intervals: IntervalConfig = dataclasses.field(default_factory=IntervalConfig)

    def __post_init__(self) -> None:
        check_field_types(self)
        self.model.check_size(*self.data.crop_size)
        if not NEVER <= self.quantization.delay_step <= self.optimization.train_steps:
            raise ValueError(
                "quantize_delay_step must be -1 (never) or 0 to train_steps "
                f"({self.optimization.train_steps}); got {self.quantization.delay_step}"
            )
        frozen = self.quantization.freeze_batch_norm
        if self.quantization.delay_step == 0 and frozen and self.start.is_random:
            raise ValueError(
                "quantize_delay_step=0 from random weights would train on batch norms that were "
                "never fitted; give --noquantize_freeze_batch_norm, or --init_from"
            )
        if self.data.preprocessing.channels != self.model.channels:
            raise ValueError(
                f"preprocessing has {self.data.preprocessing.channels} channels, "
                f"the model {self.model.channels}; give one mean and std per channel"
            )

    @classmethod
    def from_settings(cls, **settings: Any) -> "TrainingConfig":
        """Builds a configuration from settings by their flat names.

        Args:
            **settings: `model`, `dataset` and whatever is not to have its default.

        Returns:
            the configuration.

        Raises:
            ValueError: an unknown name, or values that do not fit together.
        """
        if unknown := set(settings) - _PLACES.keys():
            raise ValueError(f"unknown training keys {sorted(unknown)}; known: {sorted(_PLACES)}")
        whole: dict[str, Any] = {}
        grouped: dict[str, dict[str, Any]] = {group: {} for group in _GROUPS}
        for name, value in settings.items():
            group, field = _PLACES[name]
            (grouped[group] if group else whole)[field] = value
        return cls(**whole, **{group: _GROUPS[group](**own) for group, own in grouped.items()})

    def settings(self) -> dict[str, Any]:
        """Returns all settings by their flat names; `from_settings` takes them."""
        return {
            name: getattr(getattr(self, group) if group else self, field)
            for name, (group, field) in _PLACES.items()
        }

    def with_settings(self, **settings: Any) -> "TrainingConfig":
        """Returns a copy with other values for some settings.

        Args:
            **settings: the new values by their flat names.

        Returns:
            the new configuration.

        Raises:
            ValueError: an unknown name, or values that do not fit together.
        """
        return self.from_settings(**self.settings() | settings)

    def to_json(self) -> dict[str, Any]:
        """Returns the settings by their flat names, as JSON has them."""
        return {name: _to_json(value) for name, value in self.settings().items()}

    @classmethod
    def from_json(cls, values: collections.abc.Mapping[str, Any]) -> "TrainingConfig":
        """Reads what `to_json` returned, now or in an older version.

        Args:
            values: the JSON object.

        Returns:
            the configuration.

        Raises:
            ValueError: an unknown or missing key, or a bad value.
        """
        if missing := _REQUIRED - set(values):
            raise ValueError(f"training keys {sorted(missing)} are missing")
        return cls.from_settings(
            **{
                name: _READERS[name](value) if name in _READERS else value
                for name, value in values.items()
            }
        )


_GROUPS: dict[str, type[Any]] = {
    "data": DataConfig,
    "optimization": OptimizationConfig,
    "quantization": QuantizationConfig,
    "start": StartConfig,
    "execution": ExecutionConfig,
    "intervals": IntervalConfig,
}
"""The groups whose fields have flat names."""

_PLACES: dict[str, tuple[str, str]] = {"model": ("", "model"), "distillation": ("", "distillation")}
"""Group ("" for none) and field of each flat name."""
_PLACES |= {
    kind.key.format(field.name): (group, field.name)
    for group, kind in _GROUPS.items()
    for field in dataclasses.fields(kind)
}

_REQUIRED = {
    "model",
    "dataset",
    "preprocessing",
    "augmentation",
    "optimizer",
    "class_weighting",
    "distribution",
}
"""Keys that the first version wrote, too, and whose absence means another kind of file."""

_READERS: dict[str, collections.abc.Callable[[Any], Any]] = {
    "model": ModelConfig.from_json,
    "preprocessing": lambda values: Preprocessing(tuple(values["mean"]), tuple(values["std"])),
    "augmentation": lambda values: Augmentation(**values),
    "distillation": Distillation.from_json,
    "sensor": lambda values: Sensor.from_json(values) if values else None,
    "optimizer": OptimizerName,
    "schedule": Schedule,
    "quantize_scheme": QatScheme,
    "class_weighting": ClassWeighting,
    "distribution": Distribution,
}


def _to_json(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, ModelConfig | Distillation | Sensor):
        return value.to_json()
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]


def read_config(run_dir: pathlib.Path) -> TrainingConfig:
    """Reads `config.json` of a run folder.

    Args:
        run_dir: the run folder.

    Returns:
        the configuration.

    Raises:
        FileNotFoundError: not a run folder.
        ValueError: not the JSON of a training run.
    """
    path = pathlib.Path(run_dir) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not a run folder; give the --run_dir of a training run")
    with bounded_file.read_as(path, "the configuration of a training run"):
        return TrainingConfig.from_json(bounded_file.read_json(path))

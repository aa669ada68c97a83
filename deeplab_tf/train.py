"""Trains a network, float first and quantization-aware after a delay.

    python -m deeplab_tf.train --dataset=camvid --data_dir=DIR --run_dir=runs/camvid \
        --train_steps=4000 --quantize_delay_step=3000

The same command resumes a run that was stopped.
"""

import enum
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np
import tf_keras as keras
from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.models.backbones.registry import BACKBONES
from deeplab_tf.models.config import (
    IMPORTED,
    OUTPUT_STRIDES,
    Aspp,
    DeepLabConfig,
    ModelConfig,
    configure,
)
from deeplab_tf.models.registry import NETWORKS
from deeplab_tf.runs.choices import (
    ClassWeighting,
    DistillLoss,
    Distribution,
    OptimizerName,
    QatScheme,
    Schedule,
)
from deeplab_tf.runs.config import DataConfig, Distillation, TrainingConfig, read_config
from deeplab_tf.runs.new_run import augmentation_for
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

if TYPE_CHECKING:
    from deeplab_tf.training.loop import ParityCheck

FLAGS = flags.FLAGS
_SAME_NAME = (  # flags that are settings of a run as they are
    "data_dir",
    "split",
    "validation_split",
    "holdout_images",
    "batch_size",
    "train_steps",
    "quantize_delay_step",
    "quantize_calibration_images",
    "learning_rate",
    "quantize_learning_rate",
    "decay_power",
    "warmup_steps",
    "weight_decay",
    "label_smoothing",
    "freeze_batch_norm",
    "quantize_freeze_batch_norm",
    "quantize_weight_average",
    "parity_interval",
    "init_from",
    "backbone_weights",
    "seed",
    "deterministic",
    "validation_interval",
    "checkpoint_interval",
    "summary_interval",
    "cache_mb",
)
_AUGMENTATION = ("min_scale", "max_scale", "flip", "color_jitter")
_MODEL = DeepLabConfig(num_classes=1)
_MODEL_FLAGS = (
    "backbone",
    "width_multiplier",
    "output_stride",
    "aspp",
    "atrous_rates",
    "aspp_channels",
    "decoder",
    "decoder_channels",
    "batch_norm_momentum",
    "keep_rows",
)
_RUN = TrainingConfig(_MODEL, DataConfig(dataset=""))


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    data = _RUN.data
    flags.DEFINE_string("data_dir", data.data_dir, "Folder of the data set.")
    flags.DEFINE_string("split", data.split, "Training list.")
    flags.DEFINE_string("validation_split", data.validation_split, "Validation list, or holdout.")
    flags.DEFINE_integer(
        "holdout_images", data.holdout_images, "Samples held out of the training list."
    )
    flags.DEFINE_string("run_dir", None, "Folder of the run; created if missing.", required=True)
    _define_model_flags()
    _define_example_flags()
    _define_optimization_flags()
    _define_quantization_flags()
    _define_start_flags()
    _define_execution_flags()
    _define_distillation_flags()


def _define_choice(name: str, default: enum.Enum, *, text: str) -> None:
    flags.DEFINE_enum(name, default.value, [member.value for member in type(default)], text)


def _define_model_flags() -> None:
    flags.DEFINE_enum("network", _MODEL.network, sorted(NETWORKS), "Network.")
    flags.DEFINE_enum(
        "backbone", _MODEL.backbone, sorted(BACKBONES), "Backbone of deeplab and unet."
    )
    flags.DEFINE_float("width_multiplier", _MODEL.width_multiplier, "Width of the backbone.")
    flags.DEFINE_enum(
        "output_stride",
        str(_MODEL.output_stride),
        [str(stride) for stride in OUTPUT_STRIDES],
        "Output stride.",
    )
    flags.DEFINE_enum(
        "aspp",
        None,
        [member.value for member in Aspp],
        "Pyramid; default: atrous for deeplab, else none.",
    )
    flags.DEFINE_list("atrous_rates", list(_MODEL.atrous_rates), "Rates of the pyramid.")
    flags.DEFINE_integer("aspp_channels", _MODEL.aspp_channels, "Channels of the pyramid.")
    flags.DEFINE_bool("decoder", _MODEL.decoder, "Join low-level features.")
    flags.DEFINE_integer("decoder_channels", _MODEL.decoder_channels, "Channels of the decoder.")
    flags.DEFINE_float("batch_norm_momentum", _MODEL.batch_norm_momentum, "Batch-norm momentum.")
    flags.DEFINE_bool(
        "keep_rows", _MODEL.keep_rows, "First stride for the width only: range images."
    )


def _define_example_flags() -> None:
    data, augmentation = _RUN.data, _RUN.data.augmentation
    flags.DEFINE_list(
        "crop_size",
        [str(size) for size in data.crop_size],
        "Height,width of a training example; default of an imported network: its own size.",
    )
    flags.DEFINE_integer("batch_size", data.batch_size, "Examples per step, over all workers.")
    flags.DEFINE_integer("cache_mb", data.cache_mb, "Memory for decoded training images.")
    flags.DEFINE_float("min_scale", augmentation.min_scale, "Smallest random scale.")
    flags.DEFINE_float("max_scale", augmentation.max_scale, "Largest random scale.")
    flags.DEFINE_bool("flip", augmentation.flip, "Mirror half of the examples.")
    flags.DEFINE_float("color_jitter", augmentation.color_jitter, "Colour change; 0 is off.")


def _define_optimization_flags() -> None:
    run = _RUN.optimization
    flags.DEFINE_integer("train_steps", run.train_steps, "Total number of steps.")
    _define_choice("optimizer", run.optimizer, text="Optimizer.")
    flags.DEFINE_float("learning_rate", run.learning_rate, "Base rate of the float phase.")
    _define_choice("schedule", run.schedule, text="Schedule of the learning rate.")
    flags.DEFINE_float("decay_power", run.decay_power, "Power of the poly decay.")
    flags.DEFINE_integer("warmup_steps", run.warmup_steps, "Linear warm-up of the float phase.")
    flags.DEFINE_float("weight_decay", run.weight_decay, "Decoupled weight decay of kernels.")
    flags.DEFINE_float("label_smoothing", run.label_smoothing, "Share spread over all classes.")
    _define_choice("class_weights", run.class_weighting, text="Class weights in the loss.")
    flags.DEFINE_bool(
        "freeze_batch_norm", run.freeze_batch_norm, "Freeze batch norms in the float phase."
    )


def _define_quantization_flags() -> None:
    run = _RUN.quantization
    flags.DEFINE_integer(
        "quantize_delay_step",
        run.delay_step,
        "Float before this step, quantization-aware from it on; 0 = from the start, -1 = never.",
    )
    flags.DEFINE_integer(
        "quantize_calibration_images", run.calibration_images, "Images for calibration."
    )
    flags.DEFINE_float(
        "quantize_learning_rate", run.learning_rate, "Base rate of the quantized phase."
    )
    flags.DEFINE_bool(
        "quantize_freeze_batch_norm",
        run.freeze_batch_norm,
        "Freeze batch norms in the quantized phase.",
    )
    _define_choice(
        "quantize_scheme",
        run.scheme,
        text="Which tensors are quantized, and how; tfmot_* are for comparison.",
    )
    flags.DEFINE_float(
        "quantize_weight_average",
        run.weight_average,
        "Decay of a moving average of the weights; 0 = none.",
    )


def _define_start_flags() -> None:
    flags.DEFINE_string(
        "init_from",
        _RUN.start.init_from,
        "Run folder, .npz of weights, or a network: .tflite, .keras, .h5, SavedModel.",
    )
    define_normalization_flags()
    flags.DEFINE_string(
        "output",
        "",
        "Which of several outputs of a network in --init_from is trained; default: the first that "
        "is a segmentation.",
    )
    flags.DEFINE_string(
        "backbone_weights",
        _RUN.start.backbone_weights,
        "imagenet (downloads), none, or a .tflite, .npz or .h5 file.",
    )


def _define_execution_flags() -> None:
    run, intervals = _RUN.execution, _RUN.intervals
    flags.DEFINE_integer("seed", run.seed, "Seed of weights, order, augmentation and hold-out.")
    flags.DEFINE_bool(
        "deterministic", run.deterministic, "Bit-for-bit repeatable on one CPU; slower."
    )
    _define_choice("distribution", run.distribution, text="Strategy of tf.distribute.")
    flags.DEFINE_integer("validation_interval", intervals.validation, "Steps between validations.")
    flags.DEFINE_integer("checkpoint_interval", intervals.checkpoint, "Steps between checkpoints.")
    flags.DEFINE_integer("summary_interval", intervals.summary, "Steps between summaries.")
    flags.DEFINE_integer(
        "parity_interval",
        intervals.parity,
        "Steps between conversions that are compared with the network; 0 = none.",
    )


def _define_distillation_flags() -> None:
    run = _RUN.distillation
    flags.DEFINE_string("teacher", run.teacher, "Run folder whose float network is the teacher.")
    flags.DEFINE_alias("distill_from", "teacher")
    flags.DEFINE_float(
        "distill_weight", run.weight, "Weight of the teacher's term; the labels get the rest."
    )
    flags.DEFINE_float("distill_temperature", run.temperature, "Divisor of the logits.")
    _define_choice("distill_loss", run.loss, text="What is copied.")


def _integers(name: str) -> tuple[int, ...]:
    values = FLAGS[name].value
    try:
        return tuple(int(value) for value in values)
    except ValueError as error:
        raise ValueError(f"--{name} takes integers, got {','.join(values)}") from error


def config_from_flags() -> TrainingConfig:
    """Returns the configuration that the flags describe.

    Raises:
        ValueError: values that do not fit together.
    """
    dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split)
    _import_start(dataset)
    imported = _imported_run()
    model = imported.model if imported else _model_from_flags(dataset)
    crop = _integers("crop_size")
    if imported and not FLAGS["crop_size"].present:
        crop = imported.data.crop_size
    if len(crop) != 2:
        raise ValueError(f"--crop_size takes height,width; got {','.join(FLAGS.crop_size)}")
    return TrainingConfig.from_settings(
        model=model,
        dataset=FLAGS.dataset,
        preprocessing=imported.data.preprocessing
        if imported
        else Preprocessing.of(dataset.channels),
        augmentation=augmentation_for(
            dataset, {name: FLAGS[name].value for name in _AUGMENTATION if FLAGS[name].present}
        ),
        sensor=dataset.sensor,
        crop_height=crop[0],
        crop_width=crop[1],
        optimizer=OptimizerName(FLAGS.optimizer),
        schedule=Schedule(FLAGS.schedule),
        class_weighting=ClassWeighting(FLAGS.class_weights),
        quantize_scheme=QatScheme(FLAGS.quantize_scheme),
        distribution=Distribution(FLAGS.distribution),
        distillation=Distillation(
            FLAGS.teacher,
            FLAGS.distill_weight,
            temperature=FLAGS.distill_temperature,
            loss=DistillLoss(FLAGS.distill_loss),
        ),
        **{name: FLAGS[name].value for name in _SAME_NAME},
    )


def _import_start(dataset: SegmentationDataset) -> None:
    """Imports the network of --init_from where that is a file, and takes its folder instead."""
    given, preprocessing = pathlib.Path(FLAGS.init_from or ""), read_preprocessing()
    is_run = (given / "config.json").is_file() or given.suffix == ".npz"
    if not FLAGS.init_from or is_run:
        if preprocessing is not None:
            raise ValueError(
                "--mean and --std say what the input of a network file in --init_from takes; "
                "other networks take (pixel - 128) / 128"
            )
        return
    from export.conversion.start_file import import_start, is_network_file  # noqa: PLC0415

    if not is_network_file(given):
        return
    FLAGS.init_from = str(
        import_start(
            given,
            pathlib.Path(FLAGS.run_dir),
            dataset=dataset,
            data_dir=FLAGS.data_dir,
            preprocessing=preprocessing,
            batch_norm=FLAGS.quantize_delay_step != 0,
            output=FLAGS.output,
        )
    )


def _imported_run() -> TrainingConfig | None:
    """Returns the run of --init_from, if its network was imported from a file."""
    required = FLAGS.network == IMPORTED
    if FLAGS["network"].present and not required:
        return None
    folder = pathlib.Path(FLAGS.init_from or "")
    if FLAGS.init_from and (folder / "config.json").is_file():
        config = read_config(folder)
        if config.model.network == IMPORTED:
            if given := [name for name in _MODEL_FLAGS if FLAGS[name].present]:
                raise ValueError(
                    f"--{given[0]} does not apply to the imported network of {folder}, whose "
                    "graph is fixed; leave it out"
                )
            return config
    if required:
        raise ValueError(
            f"--network={IMPORTED} needs --init_from, a folder of tflite_tools.to_keras or a run "
            f"that started with one; got {FLAGS.init_from or 'none'}"
        )
    return None


def _model_from_flags(dataset: SegmentationDataset) -> ModelConfig:
    settings = {name: FLAGS[name].value for name in _MODEL_FLAGS}
    settings["output_stride"] = int(FLAGS.output_stride)
    settings["atrous_rates"] = _integers("atrous_rates")
    if FLAGS.aspp:
        settings["aspp"] = Aspp(FLAGS.aspp)
    else:
        del settings["aspp"]  # the network's own
    settings["num_classes"] = dataset.label_set.num_classes
    settings["channels"] = dataset.channels
    return configure(FLAGS.network, settings)


def _read_folded(path: pathlib.Path) -> Any:
    """Reads the convolutions of a `.tflite` in graph order."""
    from tflite_tools.flatbuffer.graph import read_checked_graph  # noqa: PLC0415
    from tflite_tools.to_keras.convolution_weights import read_convolutions  # noqa: PLC0415

    return read_convolutions(read_checked_graph(path))


def _parity_check(config: TrainingConfig) -> "ParityCheck | None":
    """Returns the comparison with the interpreter, which the training package may not import."""
    if not config.intervals.parity:
        return None
    from export.conversion.parity import measure_parity  # noqa: PLC0415

    def check(model: keras.Model, images: np.ndarray) -> dict[str, float]:
        parity = measure_parity(
            model,
            images,
            preprocessing=config.data.preprocessing,
            alignment=config.model.logits_alignment,
        )
        return {"argmax_agreement": parity.agreement, "snr_db": parity.snr_db}

    return check


def train_run(config: TrainingConfig, run_dir: pathlib.Path) -> float:
    """Trains a network, or resumes a run that was stopped.

    Args:
        config: configuration of the run.
        run_dir: its folder; created if it is missing.

    Returns:
        mIoU of the last validation, a fraction.

    Raises:
        FileExistsError: the folder holds a run with other settings.
        FileNotFoundError: images, or the first weights, are missing.
        RuntimeError: another process trains in the folder.
        ValueError: settings that do not fit the data or the first weights.
    """
    from deeplab_tf.runs.folder import RunFolder  # noqa: PLC0415
    from deeplab_tf.training.loop import TrainingRun  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.training.start import (  # noqa: PLC0415
        initial_ranges,
        initializer,
        teacher_maker,
    )

    start = initializer(config, _read_folded)
    teacher = None
    if config.distillation.teacher:
        labels = open_dataset(
            config.data.dataset, config.data.data_dir, split=config.data.split
        ).label_set
        teacher = teacher_maker(config, labels.names)
    run = TrainingRun(
        config,
        RunFolder(run_dir),
        initialize=start,
        known_ranges=initial_ranges(config),
        make_teacher=teacher,
        check_parity=_parity_check(config),
    )
    return run.train()


def main() -> int:
    """Trains the run that the flags describe.

    Returns:
        exit status.
    """
    config = config_from_flags()
    score = train_run(config, pathlib.Path(FLAGS.run_dir))
    logging.info("done: validation mIoU %.4f; run folder %s", score, FLAGS.run_dir)
    logging.info("next: python -m export.to_tflite --run_dir=%s", FLAGS.run_dir)
    return 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main, resume="the same command resumes from the last checkpoint")


if __name__ == "__main__":
    console()

"""Trains a network, float first and quantization-aware after a delay.

    python -m deeplab_tf.train --dataset=camvid --data_dir=DIR --run_dir=runs/camvid \
        --train_steps=4000 --quantize_delay_step=3000

The same command goes on where it was stopped.
"""

import dataclasses
import pathlib

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.augmentation import Augmentation
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.models.backbones.registry import BACKBONES
from deeplab_tf.models.config import IMPORTED, OUTPUT_STRIDES, Aspp, ModelConfig, default_aspp
from deeplab_tf.models.registry import NETWORKS
from deeplab_tf.quantization.qat.apply import QatScheme
from deeplab_tf.training.config import Distribution, TrainingConfig, read_config
from deeplab_tf.training.distillation import Distillation, DistillLoss
from deeplab_tf.training.losses import ClassWeighting
from deeplab_tf.training.schedules import OptimizerName, Schedule

FLAGS = flags.FLAGS
_SAME_NAME = (  # flags that are fields of TrainingConfig as they are
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
_MODEL = ModelConfig(num_classes=1)
_AUGMENTATION = Augmentation()
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
_DISTILLATION = Distillation()
_RUN = TrainingConfig(model=_MODEL, dataset="")


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_string("split", "train", "Training list.")
    flags.DEFINE_string("validation_split", "val", "Validation list, or holdout.")
    flags.DEFINE_integer("holdout_images", 0, "Samples held out of the training list.")
    flags.DEFINE_string("run_dir", None, "Folder of the run; made if missing.", required=True)
    _define_model_flags()
    _define_step_flags()
    _define_quantized_phase_flags()
    _define_start_flags()
    _define_distillation_flags()


def _define_model_flags() -> None:
    flags.DEFINE_enum("network", _MODEL.network, sorted(NETWORKS), "Network.")
    flags.DEFINE_enum("backbone", _MODEL.backbone, sorted(BACKBONES), "Of deeplab and unet.")
    flags.DEFINE_float("width_multiplier", _MODEL.width_multiplier, "Width of the backbone.")
    flags.DEFINE_enum("output_stride", "16", [str(s) for s in OUTPUT_STRIDES], "Output stride.")
    flags.DEFINE_enum(
        "aspp", None, [a.value for a in Aspp], "Pyramid; default: atrous for deeplab, else none."
    )
    flags.DEFINE_list("atrous_rates", list(_MODEL.atrous_rates), "Rates of the pyramid.")
    flags.DEFINE_integer("aspp_channels", _MODEL.aspp_channels, "Channels of the pyramid.")
    flags.DEFINE_bool("decoder", _MODEL.decoder, "Join low-level features in.")
    flags.DEFINE_integer("decoder_channels", _MODEL.decoder_channels, "Channels of the decoder.")
    flags.DEFINE_float("batch_norm_momentum", _MODEL.batch_norm_momentum, "Batch-norm momentum.")
    flags.DEFINE_bool("keep_rows", False, "First stride along the width alone: range images.")


def _define_step_flags() -> None:
    flags.DEFINE_integer("train_steps", _RUN.train_steps, "Steps in all.")
    flags.DEFINE_integer(
        "quantize_delay_step",
        _RUN.quantize_delay_step,
        "Float before this step, quantization-aware from it on; 0 = from the start, -1 = never.",
    )
    flags.DEFINE_list(
        "crop_size",
        ["256", "256"],
        "Height,width of a training example; default of an imported network: its own size.",
    )
    flags.DEFINE_integer("batch_size", _RUN.batch_size, "Examples a step, over all workers.")
    flags.DEFINE_enum("optimizer", "sgd", [o.value for o in OptimizerName], "Optimizer.")
    flags.DEFINE_float("learning_rate", _RUN.learning_rate, "Base rate of the float phase.")
    flags.DEFINE_float(
        "quantize_learning_rate", _RUN.quantize_learning_rate, "Base rate of the quantized phase."
    )
    flags.DEFINE_enum(
        "schedule", _RUN.schedule.value, [s.value for s in Schedule], "Of the learning rate."
    )
    flags.DEFINE_float("decay_power", _RUN.decay_power, "Power of the poly decay.")
    flags.DEFINE_integer("warmup_steps", _RUN.warmup_steps, "Linear warm-up of the float phase.")
    flags.DEFINE_float("weight_decay", _RUN.weight_decay, "Decoupled weight decay of kernels.")
    flags.DEFINE_float("label_smoothing", _RUN.label_smoothing, "Share spread over all classes.")
    flags.DEFINE_enum(
        "class_weights", "none", [w.value for w in ClassWeighting], "Class weights in the loss."
    )
    flags.DEFINE_float("min_scale", _AUGMENTATION.min_scale, "Smallest random scale.")
    flags.DEFINE_float("max_scale", _AUGMENTATION.max_scale, "Largest random scale.")
    flags.DEFINE_bool("flip", _AUGMENTATION.flip, "Mirror half of the examples.")
    flags.DEFINE_float("color_jitter", _AUGMENTATION.color_jitter, "Colour change; 0 is off.")
    flags.DEFINE_bool("freeze_batch_norm", False, "Freeze batch norms in the float phase.")


def _define_quantized_phase_flags() -> None:
    flags.DEFINE_bool(
        "quantize_freeze_batch_norm", True, "Freeze batch norms in the quantized phase."
    )
    flags.DEFINE_enum(
        "quantize_scheme",
        _RUN.quantize_scheme.value,
        [member.value for member in QatScheme],
        "Whose choice of quantized tensors; tfmot_default is there to compare with.",
    )
    flags.DEFINE_float(
        "quantize_weight_average", 0.0, "Decay of a moving average of the weights; 0 = none."
    )
    flags.DEFINE_integer(
        "parity_interval", 0, "Steps between conversions that are compared with the network."
    )


def _define_start_flags() -> None:
    flags.DEFINE_string("init_from", "", "Run folder or .npz to start from.")
    flags.DEFINE_string(
        "backbone_weights", "none", "imagenet (downloads), none, or a .tflite, .npz or .h5 file."
    )
    flags.DEFINE_integer("seed", 0, "Of weights, order, augmentation and hold-out.")
    flags.DEFINE_bool("deterministic", False, "Bit-for-bit repeatable on one CPU; slower.")
    flags.DEFINE_enum("distribution", "none", [d.value for d in Distribution], "tf.distribute.")
    flags.DEFINE_integer("quantize_calibration_images", 64, "Photos that fill the ranges.")
    flags.DEFINE_integer("validation_interval", _RUN.validation_interval, "Steps between.")
    flags.DEFINE_integer("checkpoint_interval", _RUN.checkpoint_interval, "Steps between.")
    flags.DEFINE_integer("summary_interval", _RUN.summary_interval, "Steps between.")
    flags.DEFINE_integer("cache_mb", _RUN.cache_mb, "Memory for decoded training photos.")


def _define_distillation_flags() -> None:
    flags.DEFINE_string("teacher", "", "Run folder whose float network is copied, too.")
    flags.DEFINE_alias("distill_from", "teacher")
    flags.DEFINE_float(
        "distill_weight", _DISTILLATION.weight, "Of the teacher; the labels get the rest."
    )
    flags.DEFINE_float("distill_temperature", _DISTILLATION.temperature, "Divides the logits.")
    flags.DEFINE_enum(
        "distill_loss", _DISTILLATION.loss.value, [d.value for d in DistillLoss], "Form."
    )


def _integers(name: str) -> tuple[int, ...]:
    values = FLAGS[name].value
    try:
        return tuple(int(value) for value in values)
    except ValueError as error:
        raise ValueError(f"--{name} takes integers, got {','.join(values)}") from error


def config_from_flags() -> TrainingConfig:
    """Raises ValueError for values that do not fit together."""
    dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split)
    imported = _imported_run()
    model = imported.model if imported else _model_from_flags(dataset)
    crop = _integers("crop_size")
    if imported and not FLAGS["crop_size"].present:
        crop = (imported.crop_height, imported.crop_width)
    if len(crop) != 2:
        raise ValueError(f"--crop_size takes height,width; got {','.join(FLAGS.crop_size)}")
    return TrainingConfig(
        model=model,
        dataset=FLAGS.dataset,
        preprocessing=imported.preprocessing if imported else Preprocessing.of(dataset.channels),
        augmentation=_augmentation_from_flags(dataset),
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


def _imported_run() -> TrainingConfig | None:
    """The run that --init_from names, where its network came out of a `.tflite`."""
    wanted = FLAGS.network == IMPORTED
    if FLAGS["network"].present and not wanted:
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
    if wanted:
        raise ValueError(
            f"--network={IMPORTED} needs --init_from, a folder of tflite_tools.to_keras or a run "
            f"that began with one; got {FLAGS.init_from or 'none'}"
        )
    return None


def _augmentation_from_flags(dataset) -> Augmentation:
    """Measurements keep their values and their size where nothing else is said."""
    chosen = Augmentation(
        FLAGS.min_scale, FLAGS.max_scale, flip=FLAGS.flip, color_jitter=FLAGS.color_jitter
    )
    if dataset.photographs:
        return chosen
    if FLAGS["color_jitter"].present and FLAGS.color_jitter:
        raise ValueError(
            f"--color_jitter={FLAGS.color_jitter} would falsify the measurements of "
            f"{dataset.name}; leave it out"
        )
    flip = FLAGS.flip
    if flip and dataset.antisymmetric_channels is None:
        if FLAGS["flip"].present:
            raise ValueError(
                f"--flip would falsify {dataset.name}: this sensor looks along neither axis, and "
                "its mirrored image is none that it can see; leave it out"
            )
        flip = False
    scales = {
        name: FLAGS[name].value if FLAGS[name].present else 1.0
        for name in ("min_scale", "max_scale")
    }
    return dataclasses.replace(chosen, color_jitter=0.0, flip=flip, **scales)


def _model_from_flags(dataset) -> ModelConfig:
    return ModelConfig(
        num_classes=dataset.label_set.num_classes,
        channels=dataset.channels,
        network=FLAGS.network,
        backbone=FLAGS.backbone,
        width_multiplier=FLAGS.width_multiplier,
        output_stride=int(FLAGS.output_stride),
        aspp=Aspp(FLAGS.aspp) if FLAGS.aspp else default_aspp(FLAGS.network),
        atrous_rates=_integers("atrous_rates"),
        aspp_channels=FLAGS.aspp_channels,
        decoder=FLAGS.decoder,
        decoder_channels=FLAGS.decoder_channels,
        batch_norm_momentum=FLAGS.batch_norm_momentum,
        keep_rows=FLAGS.keep_rows,
    )


def _read_folded(path: pathlib.Path):
    from tflite_tools.flatbuffer.graph import read_checked_graph  # noqa: PLC0415
    from tflite_tools.to_keras.convolution_weights import read_convolutions  # noqa: PLC0415

    return read_convolutions(read_checked_graph(path))


def _parity_check(config: TrainingConfig):
    """The comparison with the interpreter, which training itself may not know."""
    if not config.parity_interval:
        return None
    from export.conversion.parity import measure_parity  # noqa: PLC0415

    def check(model, photos):
        found = measure_parity(
            model,
            photos,
            preprocessing=config.preprocessing,
            alignment=config.model.logits_alignment,
        )
        return {"argmax_agreement": found.agreement, "snr_db": found.snr_db}

    return check


def main() -> int:
    config = config_from_flags()
    from deeplab_tf.training.loop import TrainingRun  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.training.run_folder import RunFolder  # noqa: PLC0415
    from deeplab_tf.training.start import (  # noqa: PLC0415
        initial_ranges,
        initializer,
        teacher_maker,
    )

    folder = RunFolder(pathlib.Path(FLAGS.run_dir))
    start = initializer(config, _read_folded)
    teacher = None
    if config.distillation.teacher:
        labels = open_dataset(config.dataset, config.data_dir, split=config.split).label_set
        teacher = teacher_maker(config, labels.names)
    run = TrainingRun(
        config,
        folder,
        initialize=start,
        known_ranges=initial_ranges(config),
        make_teacher=teacher,
        check_parity=_parity_check(config),
    )
    score = run.train()
    logging.info("done: validation mIoU %.4f; run folder %s", score, folder.path)
    return 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Turns a trained network into `.tflite` files, each checked and with a manifest.

    python -m export.to_tflite --run_dir=runs/camvid

makes every variant with full-size logits and with a class map, in <run_dir>/tflite.
"""

import difflib
import pathlib

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import BiasMethod, PostTraining
from deeplab_tf.runs.folder import RunFolder
from export.conversion.variants import RULES, Head, IoDtype, Target, Variant, plan_files

FLAGS = flags.FLAGS
REPORTED_SPLITS = {"val", "validation", "test"}
"""Lists that results are reported on."""
DEFAULT_CALIBRATION_IMAGES = 100
LARGEST_DEFAULT_PIXELS = 4_000_000
_NO_RUN = "For --keras_file, --saved_model and --frozen_graph: "


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", "", "Run folder of deeplab_tf.train.")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Which weights of the run.")
    flags.DEFINE_string("keras_file", "", "Instead: .keras or .h5 file of stock layers.")
    flags.DEFINE_string("saved_model", "", "Instead: SavedModel folder.")
    flags.DEFINE_string("frozen_graph", "", "Instead: TF1 frozen graph.")
    flags.DEFINE_string("input_arrays", "", "Input array of --frozen_graph.")
    flags.DEFINE_string("output_arrays", "", "Output array of --frozen_graph.")
    flags.DEFINE_bool(
        "trust_saved_model",
        False,
        "Load --saved_model or --frozen_graph whatever its operators do: they run as you.",
    )
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/tflite.")
    flags.DEFINE_list(
        "variants", "", "Default: all. Of " + ", ".join(variant.value for variant in Variant)
    )
    flags.DEFINE_list("heads", "logits,argmax", "Of " + ", ".join(head.value for head in Head))
    flags.DEFINE_enum(
        "target",
        Target.NONE.value,
        [target.value for target in Target],
        "edgetpu: int8 and qat_int8 with low-resolution logits and resizes that map; checked.",
    )
    io_dtypes = [dtype.value for dtype in IoDtype]
    flags.DEFINE_enum("input_dtype", "uint8", io_dtypes, "Input of full-integer variants.")
    flags.DEFINE_enum("output_dtype", "uint8", io_dtypes, "Output of full-integer variants.")
    flags.DEFINE_list("size", "", "Height,width; default: the first photo's, padded to fit.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Of calibration; default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("calibration_split", "train", "List that images are chosen from.")
    flags.DEFINE_integer("calibration_images", 0, "How many; 0 = 100, or all of a shorter list.")
    flags.DEFINE_integer("calibration_seed", 0, "Which.")
    flags.DEFINE_bool("calibrate_on_evaluation", False, "Allow the list that is evaluated on.")
    flags.DEFINE_list("mean", "128,128,128", _NO_RUN + "pixel mean of each channel.")
    flags.DEFINE_list("std", "128,128,128", _NO_RUN + "pixel divisor of each channel.")
    flags.DEFINE_string("labels", "", _NO_RUN + "text file, a class name a line.")
    _define_post_training_flags()
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def _define_post_training_flags() -> None:
    relu6 = [member.value for member in Relu6]
    flags.DEFINE_bool("per_channel", True, "int8: one weight scale a channel; off: one a kernel.")
    flags.DEFINE_bool("equalize", False, "int8: equalize the ranges of neighbouring kernels.")
    flags.DEFINE_enum("equalize_relu6", "exact", relu6, "int8: what becomes of ReLU6 then.")
    flags.DEFINE_bool("absorb_biases", False, "int8: move high biases into the next layer.")
    methods = [member.value for member in BiasMethod]
    flags.DEFINE_enum("correct_biases", "none", methods, "int8: undo shifts of a layer's mean.")
    flags.DEFINE_bool("adaround", False, "int8: learn the rounding of weights; takes minutes.")
    flags.DEFINE_list("keep_float", "", "int8: layers that compute in float32.")
    flags.DEFINE_list("int16", "", "int8: layers that compute with 16-bit activations.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "int8: how ranges are chosen.")


def _post_training():
    """The steps that are asked for; None where the converter does it all."""
    plan = PostTraining(
        FLAGS.per_channel,
        FLAGS.equalize,
        relu6=Relu6(FLAGS.equalize_relu6),
        absorb=FLAGS.absorb_biases,
        bias=BiasMethod(FLAGS.correct_biases),
        ranges=RangeMethod(FLAGS.activation_ranges),
        adaround=FLAGS.adaround,
        keep_float=tuple(name for name in FLAGS.keep_float if name),
        int16=tuple(name for name in FLAGS.int16 if name),
    )
    return None if plan == PostTraining() else plan


def _numbers(name: str, kind=float):
    try:
        return tuple(kind(value) for value in FLAGS[name].value)
    except ValueError as error:
        raise ValueError(f"--{name} takes numbers, got {','.join(FLAGS[name].value)}") from error


def _open_source():
    from export.conversion import source  # noqa: PLC0415 - flags are checked first

    given = [n for n in ("run_dir", "keras_file", "saved_model", "frozen_graph") if FLAGS[n].value]
    if len(given) != 1:
        raise ValueError(
            "give one of --run_dir, --keras_file, --saved_model, --frozen_graph; got "
            + (", ".join(given) or "none")
        )
    path = pathlib.Path(FLAGS[given[0]].value)
    if given[0] == "run_dir":
        return source.RunSource(RunFolder(path), FLAGS.checkpoint == "best")
    if given[0] == "keras_file":
        return source.KerasFileSource(path)
    if given[0] == "saved_model":
        return source.SavedModelSource(path, FLAGS.trust_saved_model)
    if not (FLAGS.input_arrays and FLAGS.output_arrays):
        raise ValueError("--frozen_graph needs --input_arrays and --output_arrays")
    return source.FrozenGraphSource(
        path, FLAGS.input_arrays, output_array=FLAGS.output_arrays, trusted=FLAGS.trust_saved_model
    )


def _calibration_dataset(config, variants, *, labels_known: bool):
    """The split that images are chosen from; None where nothing needs one."""
    needed = any(RULES[variant].calibrated for variant in variants)
    size_known = any(FLAGS.size) or (config is not None and config.model.fixed_size is not None)
    if not needed and labels_known and size_known:
        return None
    dataset = FLAGS.dataset or (config.data.dataset if config else None)
    if not dataset:
        return None
    data_dir = FLAGS.data_dir or (config.data.data_dir if config else "")
    reported = REPORTED_SPLITS | ({config.data.validation_split} if config else set())
    if needed and FLAGS.calibration_split in reported and not FLAGS.calibrate_on_evaluation:
        raise ValueError(
            f"--calibration_split={FLAGS.calibration_split} is a list that results are reported "
            "on; choose another, or give --calibrate_on_evaluation"
        )
    return open_dataset(dataset, data_dir, split=FLAGS.calibration_split)


def _size(config, dataset) -> tuple[int, int]:
    if [value for value in FLAGS.size if value]:
        size = _numbers("size", int)
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"--size takes height,width; got {','.join(FLAGS.size)}")
        return size
    if config is not None and config.model.fixed_size is not None:
        return config.model.padded_size(1, 1)
    if config is None or dataset is None:
        raise ValueError("give --size=height,width")
    height, width = config.model.padded_size(*dataset.image(0).shape[:2])
    if height * width > LARGEST_DEFAULT_PIXELS:
        raise ValueError(
            f"the first photo would make the network's input {height} x {width}; choose what the "
            "device can run with --size=height,width"
        )
    return height, width


def _protect_source() -> None:
    """The SavedModel that is read must not be the one that is written."""
    from export.conversion.pipeline import SAVED_MODELS  # noqa: PLC0415

    if not FLAGS.saved_model:
        return
    given = pathlib.Path(FLAGS.saved_model).resolve()
    for name in SAVED_MODELS.values():
        if (pathlib.Path(FLAGS.output_dir) / name).resolve() == given:
            raise ValueError(f"--output_dir would replace {FLAGS.saved_model}; choose another")


def _check_layers(source, height: int, *, width: int) -> None:
    """Raises ValueError for a layer that --keep_float or --int16 names and nobody has."""
    wanted = [name for name in (*FLAGS.keep_float, *FLAGS.int16) if name]
    if not wanted:
        return
    known = {layer.name for layer in source.float_model(height, width).layers}
    for name in wanted:
        if name.removesuffix("_linear") not in known and name not in known:
            near = difflib.get_close_matches(name, known)
            raise ValueError(
                f"--keep_float, --int16: the network has no layer {name}"
                + (
                    f"; did you mean {', '.join(near)}?"
                    if near
                    else "; export.sensitivity lists them"
                )
            )


def _labels(dataset) -> LabelSet:
    if FLAGS.run_dir:
        return RunFolder(pathlib.Path(FLAGS.run_dir)).read_labels()
    if FLAGS.labels:
        names = pathlib.Path(FLAGS.labels).read_text().splitlines()
        return LabelSet.from_names(name.strip() for name in names if name.strip())
    if dataset is None:
        raise ValueError("give --labels=FILE, one class name a line, or --dataset")
    return dataset.label_set


def main() -> int:
    variants = command.enum_members("variants", FLAGS.variants, kind=Variant) or list(Variant)
    heads = command.enum_members("heads", FLAGS.heads, kind=Head) or list(Head)
    target = Target(FLAGS.target)
    if target is Target.EDGETPU:
        variants, heads = _for_edgetpu(variants, heads)
    if _post_training() is not None and Variant.INT8 not in variants:
        raise ValueError(
            "--keep_float, --int16, --equalize, --absorb_biases, --correct_biases, --adaround, "
            "--activation_ranges and --noper_channel apply to int8 alone; add it to --variants"
        )
    source = _open_source()
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415
    from export.conversion.pipeline import ExportPlan, export_files  # noqa: PLC0415

    config = read_config(pathlib.Path(FLAGS.run_dir)) if FLAGS.run_dir else None
    if not [name for name in FLAGS.variants if name] and not source.quantization_aware:
        variants.remove(Variant.QAT_INT8)
    elif Variant.QAT_INT8 in variants and not source.quantization_aware:
        raise ValueError(
            "qat_int8 needs a run with quantization-aware training; train with "
            "--quantize_delay_step of 0 or more"
        )
    if not source.choosable_heads:
        heads = [Head.LOGITS]
        logging.info("the graph's own output is kept: heads apply to runs and Keras files")
    labels_known = bool(FLAGS.run_dir or FLAGS.labels)
    dataset = _calibration_dataset(config, variants, labels_known=labels_known)
    height, width = _size(config, dataset)
    if config is not None:
        config.model.check_size(height, width)
    _check_layers(source, height, width=width)
    files, left_out = plan_files(
        variants,
        heads,
        input_dtype=IoDtype(FLAGS.input_dtype),
        output_dtype=IoDtype(FLAGS.output_dtype),
    )
    for line in left_out:
        logging.warning("left out: %s", line)
    if not files:
        raise ValueError("; ".join(left_out))
    _protect_source()
    plan = ExportPlan(
        output_dir=pathlib.Path(FLAGS.output_dir or pathlib.Path(FLAGS.run_dir) / "tflite"),
        height=height,
        width=width,
        files=files,
        preprocessing=config.data.preprocessing
        if config
        else Preprocessing(_numbers("mean"), _numbers("std")),
        label_set=_labels(dataset),
        calibration_dataset=dataset,
        calibration_images=FLAGS.calibration_images
        or min(DEFAULT_CALIBRATION_IMAGES, len(dataset) if dataset else 0),
        calibration_seed=FLAGS.calibration_seed,
        overwrite=FLAGS.overwrite,
        post_training=_post_training(),
        target=target,
    )
    results = export_files(source, plan)
    failed = [result for result in results if result.failure]
    logging.info("%d of %d files in %s", len(results) - len(failed), len(results), plan.output_dir)
    if target is not Target.NONE:
        _tell_target(target, [result.path for result in results if result.path])
    return 1 if failed else 0


def _for_edgetpu(variants, heads):
    """Full-integer variants, logits at the network's own resolution, unless others are named."""
    if not [name for name in FLAGS.variants if name]:
        variants = [Variant.INT8, Variant.QAT_INT8]
    if wrong := [v.value for v in variants if v not in (Variant.INT8, Variant.QAT_INT8)]:
        raise ValueError(f"an Edge TPU runs int8 and qat_int8; {', '.join(wrong)} cannot be mapped")
    if not FLAGS["heads"].present:
        heads = [Head.LOGITS_LOW]
    return variants, heads


def _tell_target(target: Target, paths) -> None:
    from tflite_tools.deployment.targets.registry import check_target  # noqa: PLC0415
    from tflite_tools.flatbuffer.graph import read_graph  # noqa: PLC0415

    for path in paths:
        found = check_target(read_graph(path), target.value)
        logging.info("%s on %s: %s", path.name, target.value, found.partition)
        for placement in found.left_off:
            kind, reason = placement.operator.kind, placement.reason
            logging.warning("%s: %s stays off: %s", path.name, kind, reason)


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

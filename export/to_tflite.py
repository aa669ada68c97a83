"""Exports a trained network as `.tflite` files, each checked and with a manifest.

    python -m export.to_tflite --run_dir=runs/camvid

makes every variant with full-size logits and with a class map, in <run_dir>/tflite.
"""

import pathlib
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from absl import flags, logging

from deeplab_tf import command, sandbox
from deeplab_tf.data.label_list import read_label_list
from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.registry import DATASETS
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import BiasMethod, PostTraining
from deeplab_tf.runs.folder import RunFolder
from export.adaround_flags import (
    adaround_flags_given,
    adaround_options,
    define_adaround_flags,
)
from export.conversion.variants import Head, IoDtype, Target, Variant

if TYPE_CHECKING:  # both load TensorFlow; flags are checked first
    from export.conversion.request import ExportRequest
    from export.conversion.source import Source

FLAGS = flags.FLAGS
_Number = TypeVar("_Number", int, float)
_NO_RUN = "For --keras_file, --saved_model and --frozen_graph: "


def _define_flags() -> None:
    sandbox.define_flag()
    flags.DEFINE_string("run_dir", "", "Run folder of deeplab_tf.train.")
    flags.DEFINE_enum("checkpoint", "last", ["last", "best"], "Which weights of the run.")
    flags.DEFINE_string("keras_file", "", "Instead: .keras or .h5 file of stock layers.")
    flags.DEFINE_string("saved_model", "", "Instead: SavedModel folder.")
    flags.DEFINE_string("frozen_graph", "", "Instead: TF1 frozen graph.")
    flags.DEFINE_string("input_arrays", "", "Input array of --frozen_graph.")
    flags.DEFINE_string("output_arrays", "", "Output array of --frozen_graph.")
    flags.DEFINE_string("output", "", "Which of several outputs of --keras_file, --saved_model.")
    flags.DEFINE_bool("keep_outputs", False, "Keep the other outputs of --keras_file, too.")
    flags.DEFINE_bool(
        "trust_saved_model",
        False,
        "Load --saved_model or --frozen_graph without checking its operators: they run as you.",
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
    flags.DEFINE_list("size", "", "Height,width; default: the first image's, padded to fit.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "For calibration; default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("calibration_split", "train", "List that images are chosen from.")
    flags.DEFINE_integer("calibration_images", 0, "How many; 0 = 100, or all of a shorter list.")
    flags.DEFINE_integer("calibration_seed", 0, "Seed of the choice of images.")
    flags.DEFINE_bool("calibrate_on_evaluation", False, "Allow the list that is evaluated on.")
    flags.DEFINE_list("mean", "128", _NO_RUN + "pixel mean, of all channels or of each.")
    flags.DEFINE_list("std", "128", _NO_RUN + "pixel divisor, of all or of each.")
    flags.DEFINE_string("labels", "", _NO_RUN + "text file, one class name per line.")
    _define_post_training_flags()
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def _define_post_training_flags() -> None:
    relu6 = [member.value for member in Relu6]
    flags.DEFINE_bool("per_channel", True, "int8: one weight scale per channel; off: per kernel.")
    flags.DEFINE_bool("equalize", False, "int8: equalize the ranges of neighbouring kernels.")
    flags.DEFINE_enum("equalize_relu6", "exact", relu6, "int8: form of ReLU6 after equalization.")
    flags.DEFINE_bool("absorb_biases", False, "int8: move high biases into the next layer.")
    methods = [member.value for member in BiasMethod]
    flags.DEFINE_enum("correct_biases", "none", methods, "int8: correct shifts of a layer's mean.")
    flags.DEFINE_bool("adaround", False, "int8: learn the rounding of weights; takes minutes.")
    define_adaround_flags()
    flags.DEFINE_list("keep_float", "", "int8: layers that compute in float32.")
    flags.DEFINE_list("int16", "", "int8: layers that compute with 16-bit activations.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "int8: how ranges are chosen.")


def _post_training() -> PostTraining | None:
    """Returns the requested steps; None where the converter quantizes by itself."""
    if adaround_flags_given() and not FLAGS.adaround:
        raise ValueError("--adaround_iterations and --adaround_learning_rate need --adaround")
    plan = PostTraining(
        FLAGS.per_channel,
        FLAGS.equalize,
        relu6=Relu6(FLAGS.equalize_relu6),
        absorb=FLAGS.absorb_biases,
        bias=BiasMethod(FLAGS.correct_biases),
        ranges=RangeMethod(FLAGS.activation_ranges),
        adaround=FLAGS.adaround,
        adaround_options=adaround_options(),
        keep_float=tuple(name for name in FLAGS.keep_float if name),
        int16=tuple(name for name in FLAGS.int16 if name),
    )
    return None if plan == PostTraining() else plan


def _numbers(name: str, kind: Callable[[str], _Number]) -> tuple[_Number, ...]:
    try:
        return tuple(kind(value) for value in FLAGS[name].value)
    except ValueError as error:
        text = ",".join(FLAGS[name].value)
        raise ValueError(f"--{name}: expected numbers, got {text}") from error


def _open_source() -> "Source":
    from export.conversion import source  # noqa: PLC0415 - flags are checked first

    given = [n for n in ("run_dir", "keras_file", "saved_model", "frozen_graph") if FLAGS[n].value]
    if len(given) != 1:
        raise ValueError(
            "expected one of --run_dir, --keras_file, --saved_model, --frozen_graph, got "
            + (", ".join(given) or "none")
            + "; give exactly one"
        )
    path = pathlib.Path(FLAGS[given[0]].value)
    if given[0] == "run_dir":
        return source.RunSource(RunFolder(path), FLAGS.checkpoint == "best")
    if given[0] == "keras_file":
        return source.KerasFileSource(path, FLAGS.output, keep_outputs=FLAGS.keep_outputs)
    if given[0] == "saved_model":
        return source.SavedModelSource(path, FLAGS.trust_saved_model, output=FLAGS.output)
    if FLAGS.output:
        raise ValueError("--output chooses an output of --keras_file or --saved_model")
    if not (FLAGS.input_arrays and FLAGS.output_arrays):
        raise ValueError("--frozen_graph needs --input_arrays and --output_arrays; give both")
    return source.FrozenGraphSource(
        path, FLAGS.input_arrays, output_array=FLAGS.output_arrays, trusted=FLAGS.trust_saved_model
    )


def _size() -> tuple[int, int] | None:
    if not any(FLAGS.size):
        return None
    size = _numbers("size", int)
    if len(size) != 2:
        raise ValueError(f"--size: expected height,width, got {','.join(FLAGS.size)}")
    return size[0], size[1]


def _request() -> "ExportRequest":
    from export.conversion.request import ExportRequest  # noqa: PLC0415 - flags are checked first

    variants = command.enum_members("variants", FLAGS.variants, kind=Variant)
    heads = command.enum_members("heads", FLAGS.heads, kind=Head) or list(Head)
    labels = read_label_list(pathlib.Path(FLAGS.labels)) if FLAGS.labels else ()
    return ExportRequest(
        output_dir=pathlib.Path(FLAGS.output_dir) if FLAGS.output_dir else None,
        variants=tuple(variants),
        heads=tuple(heads) if FLAGS["heads"].present else None,
        target=Target(FLAGS.target),
        input_dtype=IoDtype(FLAGS.input_dtype),
        output_dtype=IoDtype(FLAGS.output_dtype),
        size=_size(),
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        calibration_split=FLAGS.calibration_split,
        calibration_images=FLAGS.calibration_images,
        calibration_seed=FLAGS.calibration_seed,
        calibrate_on_evaluation=FLAGS.calibrate_on_evaluation,
        mean=_numbers("mean", float),
        std=_numbers("std", float),
        label_set=LabelSet.from_names(labels) if labels else None,
        post_training=_post_training(),
        overwrite=FLAGS.overwrite,
    )


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 1 if a file failed.

    Raises:
        ValueError: flags that do not fit together.
    """
    request = _request()
    source = _open_source()
    from export.conversion.pipeline import export_files  # noqa: PLC0415

    plan = request.plan(source)
    results = export_files(source, plan)
    failed = [result for result in results if result.failure]
    logging.info("%d of %d files in %s", len(results) - len(failed), len(results), plan.output_dir)
    if plan.target is not Target.NONE:
        _log_placement(plan.target, [result.path for result in results if result.path])
    return 1 if failed else 0


def _output_dir() -> pathlib.Path:
    return pathlib.Path(FLAGS.output_dir or pathlib.Path(FLAGS.run_dir) / "tflite")


def _log_placement(target: Target, paths: list[pathlib.Path]) -> None:
    """Logs which operators of each file the accelerator runs."""
    from tflite_tools.deployment.targets.registry import check_target  # noqa: PLC0415
    from tflite_tools.flatbuffer.graph import read_graph  # noqa: PLC0415

    for path in paths:
        result = check_target(read_graph(path), target.value)
        logging.info("%s on %s: %s", path.name, target.value, result.partition)
        for placement in result.left_off:
            kind, reason = placement.operator.kind, placement.reason
            logging.warning("%s: %s runs on the processor: %s", path.name, kind, reason)


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(
        main,
        resume="the same command keeps the files that are complete",
        outputs=lambda: [_output_dir()],
    )


if __name__ == "__main__":
    console()

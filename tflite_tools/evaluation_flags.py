"""Flags that several commands share, defined and read here only.

A command defines the groups that it needs and gets values, never flags: no command reads the
flags of another one.
"""

import pathlib
from typing import Any

from absl import flags

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes
from tflite_tools.evaluation.request import EvaluationRequest

FLAGS = flags.FLAGS
flags.disclaim_key_flags()  # --help lists them as the calling command's own

_TIMING = ("num_threads", "latency_repeats", "latency_warmup")


def define_normalization_flags() -> None:
    """Defines --mean and --std, read by `read_preprocessing`."""
    flags.DEFINE_list("mean", "", "Pixel mean, of all channels or each; default: the file's own.")
    flags.DEFINE_list("std", "", "Pixel divisor, of all channels or each; with --mean.")


def read_preprocessing() -> Preprocessing | None:
    """Reads --mean and --std; returns None where neither is given or defined.

    Raises:
        ValueError: values that are no numbers, or that do not fit together.
    """
    if "mean" not in FLAGS:
        return None
    mean = [value for value in FLAGS.mean if value]
    std = [value for value in FLAGS.std if value]
    if not mean and not std:
        return None
    try:
        return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))
    except ValueError as error:
        raise ValueError(f"--mean and --std: {error}") from error


def define_evaluation_flags(*, run_dir_required: bool = False) -> None:
    """Defines the flags that accuracy depends on, read by `read_request`.

    Args:
        run_dir_required: whether --run_dir must be given.
    """
    flags.DEFINE_list("model", "", "Files to score.")
    flags.DEFINE_string(
        "run_dir",
        None if run_dir_required else "",
        "Run folder; scores <run_dir>/tflite/*.tflite.",
        required=run_dir_required,
    )
    flags.DEFINE_string("reference", "", "File that agreement is counted with; default: float32.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_string("output", "", "Name or number of the output to score, of several.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one per core.")


def define_timing_flags() -> None:
    """Defines how latency is measured, read by `read_request`."""
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 30, "Timed invokes per file; 0 = no timing.")
    flags.DEFINE_integer("latency_warmup", 3, "Invokes before timing.")


def output_dir(given: str, *, default: str) -> pathlib.Path:
    """Returns the folder for results.

    Args:
        given: the command's --output_dir, or "".
        default: name of the folder inside the run folder, or inside the current one.
    """
    return pathlib.Path(given or pathlib.Path(FLAGS.run_dir or ".") / default)


def read_request(**options: Any) -> EvaluationRequest:
    """Builds a request from the groups of flags that the command defined.

    Args:
        **options: fields of `EvaluationOptions` that the command sets itself.

    Raises:
        ValueError: values that do not fit together.
    """
    timing = {name: FLAGS[name].value for name in _TIMING if name in FLAGS}
    return EvaluationRequest(
        models=tuple(pathlib.Path(name) for name in FLAGS.model if name),
        run_dir=pathlib.Path(FLAGS.run_dir) if FLAGS.run_dir else None,
        reference=pathlib.Path(FLAGS.reference) if FLAGS.reference else None,
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        split=FLAGS.split,
        output=FLAGS.output,
        preprocessing=read_preprocessing(),
        options=EvaluationOptions(
            processes=FLAGS.processes or default_processes(),
            limit=FLAGS.limit,
            mean_over=tuple(name for name in FLAGS.mean_over if name),
            **{**timing, **options},
        ),
    )

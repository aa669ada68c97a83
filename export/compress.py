"""Compresses a network under a budget: removes channels and fits what is left, without training.

    python -m export.compress --run_dir=runs/camvid --time=0.7

makes a run folder in <run_dir>/compressed with int8 and float32 files that take at most 0.7 of the
uncompressed int8 file's time. Channels and number formats are chosen by integer programming over
measured costs and losses; the budget is checked on the finished file, and a missed one is said with
exit status 1. Train the result with `deeplab_tf.train --init_from`, and --teacher the run that
it was made from. Calibration and held-out images are disjoint parts of the training list.
"""

import pathlib
import sys
from typing import TYPE_CHECKING

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.dataset import SegmentationDataset, hold_out
from export.compression.budgets import Budgets
from export.compression.number_format import NumberFormat
from export.conversion.variants import Head
from export.subject_flags import (
    check_subject,
    define_subject_flags,
    open_subject,
    results_folder,
    subject_path,
)

if TYPE_CHECKING:  # loads TensorFlow; flags are checked first
    from export.experiments.experiment_run import ExperimentRun

FLAGS = flags.FLAGS
_HELD_OUT = 24
"""Held-out images of a run that held none out of its training."""


def _define_flags() -> None:
    define_subject_flags()
    flags.DEFINE_float("time", None, "Budget: part of the uncompressed int8 file's time.")
    flags.DEFINE_float("milliseconds", None, "Budget: milliseconds of one invoke.")
    flags.DEFINE_float("megabytes", None, "Budget: size of the file, 10^6 bytes.")
    flags.DEFINE_float("download_megabytes", None, "Budget: size of the deflated file.")
    flags.DEFINE_float("max_loss", None, "Budget: mIoU that may be lost, fraction, such as 0.01.")
    flags.DEFINE_string("split", "train", "List of the images; never the one you report on.")
    flags.DEFINE_integer("calibration_images", 24, "Images to calibrate and fit on.", lower_bound=2)
    flags.DEFINE_integer(
        "holdout_images", 0, "Images to judge on; 0: those the run held out, else 24."
    )
    flags.DEFINE_integer(
        "loss_images", 6, "Of these, how many every option is measured on.", lower_bound=1
    )
    flags.DEFINE_integer("seed", 0, "Seed of the choice of images.")
    flags.DEFINE_list("formats", "", "Also choose layers to compute in: float32, int16.")
    flags.DEFINE_enum(
        "importance",
        "reconstruction",
        ["reconstruction", "taylor"],
        "Which channels go first: by the error after fitting, or by the change of the loss.",
    )
    flags.DEFINE_enum("head", Head.LOGITS.value, [head.value for head in Head], "Of the files.")
    flags.DEFINE_integer("attempts", 3, "Files to make at most.", lower_bound=1)
    flags.DEFINE_bool("batch_norm", True, "Put batch norms back, which float training needs.")
    flags.DEFINE_integer("num_threads", 1, "Of the interpreter that is timed.", lower_bound=1)
    flags.DEFINE_integer("latency_repeats", 30, "Timed invokes of each file.", lower_bound=2)
    flags.DEFINE_string("profile", "", "benchmark.json of another device: times come from there.")
    flags.DEFINE_bool("overwrite", False, "Replace an earlier result.")


def _formats() -> tuple[NumberFormat, ...]:
    found = command.enum_members("formats", FLAGS.formats, kind=NumberFormat)
    return tuple(number for number in found if number is not NumberFormat.INT8)


def _lists(run: "ExperimentRun") -> tuple[SegmentationDataset, SegmentationDataset]:
    """Returns the images to calibrate on, and those to judge on."""
    samples = run.open_list(FLAGS.split)
    if run.source.channels:
        samples = samples.with_channels(run.source.channels)
    if FLAGS.holdout_images or run.config.data.holdout_images:
        return run.hold_out(samples, FLAGS.holdout_images, groups=())
    return hold_out(samples, min(_HELD_OUT, len(samples) // 2), seed=FLAGS.seed)


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 1 if the finished file misses a budget.

    Raises:
        ValueError: flags that do not fit together.
        FileExistsError: the folder holds a run.
    """
    names = ("time", "milliseconds", "megabytes", "download_megabytes", "max_loss")
    budgets = Budgets(**{name: FLAGS[name].value for name in names})
    formats = _formats()
    check_subject()
    source, output_dir = subject_path(), results_folder("compressed")
    if output_dir.resolve() == source.resolve():
        raise ValueError(f"--output_dir would replace {source}; choose another")
    if (output_dir / "config.json").exists() and not FLAGS.overwrite:
        raise FileExistsError(f"{output_dir} holds a run; give another --output_dir or --overwrite")
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415 - flags are checked first
    from export.compression.compression import CompressionPlan, compress  # noqa: PLC0415
    from export.compression.losses import Importance  # noqa: PLC0415
    from export.compression.report import PLOT, text_of, write_report  # noqa: PLC0415

    if source.is_dir() and (source / "config.json").is_file():
        reported = read_config(source).data.validation_split
        if FLAGS.split in {"val", "test", reported}:
            raise ValueError(f"--split={FLAGS.split} is a list that results are reported on")
    run = open_subject(FLAGS.split)
    calibration, held_out = _lists(run)
    plan = CompressionPlan(
        run,
        calibration,
        held_out=held_out,
        output_dir=run.output_dir,
        budgets=budgets,
        head=Head(FLAGS.head),
        formats=formats,
        importance=Importance(FLAGS.importance),
        calibration_images=min(FLAGS.calibration_images, len(calibration)),
        loss_images=FLAGS.loss_images,
        attempts=FLAGS.attempts,
        batch_norm=FLAGS.batch_norm,
        num_threads=FLAGS.num_threads,
        latency_repeats=FLAGS.latency_repeats,
        profile=pathlib.Path(FLAGS.profile) if FLAGS.profile else None,
        seed=FLAGS.seed,
    )
    result = compress(plan)
    write_report(result, plan)
    sys.stdout.write(text_of(result, plan) + "\n")
    sys.stdout.write(f"\na run with its files: {run.output_dir}, plot: {run.output_dir / PLOT}\n")
    return 0 if result.attempts[result.chosen].meets else 1


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

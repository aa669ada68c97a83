"""Converts an existing `.tflite` again, as int8 per channel, without training.

    python -m export.requantize --model=X.tflite --dataset=voc --data_dir=DIR

Writes the network, its weights and a report into <output_dir> (a run folder), the new files
into <output_dir>/tflite, and a table that compares old and new files into <output_dir>/evaluation.
"""

import pathlib
import sys

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset
from export.conversion.variants import Head, Variant
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_enum(
        "dataset", None, sorted(DATASETS), "Data set with the classes of the file.", required=True
    )
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_string("output_dir", "", "Default: <name of the file>_requantized.")
    flags.DEFINE_list("variants", "int8", "Of " + ", ".join(variant.value for variant in Variant))
    flags.DEFINE_list(
        "heads", "", "Default: the file's own output. Of " + ", ".join(head.value for head in Head)
    )
    flags.DEFINE_string("calibration_split", "train", "List that ranges are calibrated on.")
    flags.DEFINE_integer("calibration_images", 100, "How many.", lower_bound=1)
    flags.DEFINE_integer("calibration_seed", 0, "Seed of the choice of images.")
    flags.DEFINE_string("split", "val", "List to score on; empty: no scores.")
    flags.DEFINE_integer("limit", 0, "Score only this many samples, from the first; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 30, "Timed runs per file; 0 = no timing.")
    flags.DEFINE_string("trim_head", "", "Cut the network after this tensor, its logits.")
    define_normalization_flags()
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 1 if a file failed.

    Raises:
        ValueError: no variant is chosen.
    """
    variants = tuple(command.enum_members("variants", FLAGS.variants, kind=Variant))
    heads = tuple(command.enum_members("heads", FLAGS.heads, kind=Head))
    if not variants:
        raise ValueError("--variants: expected at least one variant, got none; give int8")
    path = pathlib.Path(FLAGS.model)
    output_dir = pathlib.Path(FLAGS.output_dir or f"{path.stem}_requantized")
    calibration = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.calibration_split)
    evaluation = (
        open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split) if FLAGS.split else None
    )
    from export.experiments.requantization import (  # noqa: PLC0415 - flags are checked first
        RequantizationPlan,
        requantize,
    )
    from tflite_tools.evaluation.evaluation import (  # noqa: PLC0415
        EvaluationOptions,
        default_processes,
    )
    from tflite_tools.evaluation.tables import terminal_table, write_metrics  # noqa: PLC0415
    from tflite_tools.to_keras.convert import ImportConfig  # noqa: PLC0415

    options = EvaluationOptions(
        processes=default_processes(),
        num_threads=FLAGS.num_threads,
        latency_repeats=FLAGS.latency_repeats,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
    )
    imported = ImportConfig(
        model=path,
        output_dir=output_dir,
        trim_head=FLAGS.trim_head,
        dataset=FLAGS.dataset,
        data_dir=FLAGS.data_dir,
        split=FLAGS.calibration_split,
        preprocessing=read_preprocessing(),
        overwrite=FLAGS.overwrite,
    )
    plan = RequantizationPlan(
        imported,
        calibration,
        evaluation=evaluation,
        options=options,
        calibration_images=FLAGS.calibration_images,
        calibration_seed=FLAGS.calibration_seed,
        variants=variants,
        heads=heads,
    )
    outcome = requantize(plan)
    if outcome.results and evaluation is not None:
        write_metrics(
            outcome.results, evaluation, options=options, output_dir=output_dir / "evaluation"
        )
        sys.stdout.write(terminal_table(outcome.results, evaluation, options=options) + "\n")
    failed = [file for file in outcome.files if file.failure]
    logging.info(
        "%d of %d files in %s",
        len(outcome.files) - len(failed),
        len(outcome.files),
        output_dir / "tflite",
    )
    return 1 if failed or any(result.failure for result in outcome.results) else 0


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

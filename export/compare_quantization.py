"""Compares quantization methods on one trained network: one table, one plot.

    python -m export.compare_quantization --run_dir=runs/camvid

Files, `ladder.json`, `ladder.csv` and `ladder.png` go to <run_dir>/quantization. Other
quantization-aware runs of the network are added as rows:
--runs=qat_stock=runs/a,qat_distilled=runs/b. Run the same command again to resume: each file is
made once.

The best of many methods on a list flatters itself there: --select_on=holdout scores all on images
held out of --calibration_split and then only float and the best of them on --split.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from export.adaround_flags import adaround_options, define_adaround_flags
from export.subject_flags import check_subject, define_subject_flags, open_subject

FLAGS = flags.FLAGS


def _define_flags() -> None:
    define_subject_flags()
    flags.DEFINE_list(
        "runs", "", "name=RUN_DIR of quantization-aware runs; 'qat' = --run_dir's own."
    )
    flags.DEFINE_list(
        "methods", "", "Only these and float32; default: all. --methods=help lists their names."
    )
    flags.DEFINE_alias("rungs", "methods")
    define_adaround_flags()
    flags.DEFINE_string("calibration_split", "train", "List that ranges are calibrated on.")
    flags.DEFINE_integer("calibration_images", 32, "How many.", lower_bound=1)
    flags.DEFINE_integer("calibration_seed", 0, "Seed of the choice of images.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_enum("select_on", "", ["", "holdout"], "Choose one method on held-out images.")
    flags.DEFINE_integer(
        "holdout_images", 0, "Images held out; default: those the run held out.", lower_bound=0
    )
    flags.DEFINE_list(
        "holdout_groups", "", "Or these groups (drives, sequences), calibrating on the others."
    )
    flags.DEFINE_integer(
        "block_length", 0, "Neighbouring images an interval takes together; 0: measured."
    )
    flags.DEFINE_integer("limit", 0, "Score only this many samples, from the first; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 20, "Timed runs per file; 0 = no timing.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def _runs() -> dict[str, pathlib.Path]:
    runs = {}
    for entry in FLAGS.runs:
        name, equals, path = entry.partition("=")
        if entry and not (name and equals and path):
            raise ValueError(f"--runs: expected name=RUN_DIR,..., got {entry!r}")
        if entry:
            runs[name] = pathlib.Path(path)
    return runs


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 1 if a method failed.

    Raises:
        ValueError: flags that do not fit together.
    """
    if FLAGS.methods == ["help"]:
        from export.experiments.comparison import post_training_methods  # noqa: PLC0415

        names = [method.name for method in post_training_methods(adaround_options())]
        sys.stdout.write("\n".join(names) + "\n")
        return 0
    runs = _runs()
    check_subject()
    from export.experiments import comparison_report  # noqa: PLC0415 - flags are checked first
    from export.experiments.comparison import compare_methods  # noqa: PLC0415
    from export.experiments.comparison_request import ComparisonRequest  # noqa: PLC0415
    from tflite_tools.evaluation.evaluation import (  # noqa: PLC0415
        EvaluationOptions,
        default_processes,
    )

    request = ComparisonRequest(
        methods=tuple(name for name in FLAGS.methods if name),
        runs=runs,
        adaround=adaround_options(),
        calibration_split=FLAGS.calibration_split,
        calibration_images=FLAGS.calibration_images,
        calibration_seed=FLAGS.calibration_seed,
        split=FLAGS.split,
        select_on_holdout=bool(FLAGS.select_on),
        holdout_images=FLAGS.holdout_images,
        holdout_groups=tuple(name for name in FLAGS.holdout_groups if name),
        options=EvaluationOptions(
            processes=default_processes(),
            num_threads=FLAGS.num_threads,
            latency_repeats=FLAGS.latency_repeats,
            limit=FLAGS.limit,
            mean_over=tuple(name for name in FLAGS.mean_over if name),
            block_length=FLAGS.block_length,
        ),
        overwrite=FLAGS.overwrite,
    )
    comparison = request.comparison(open_subject(FLAGS.calibration_split))
    output_dir = comparison.plan.output_dir
    result = compare_methods(comparison)
    comparison_report.write_comparison(result, comparison, output_dir=output_dir)
    sys.stdout.write(comparison_report.comparison_text(result, comparison) + "\n")
    sys.stdout.write(
        f"\nnumbers: {output_dir / comparison_report.JSON}, "
        f"plot: {output_dir / comparison_report.PLOT}\n"
    )
    return 1 if any(row.failure for row in (*result.rows, *result.selection)) else 0


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

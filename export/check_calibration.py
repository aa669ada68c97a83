"""Checks whether a run's calibration set is large enough.

    python -m export.check_calibration --run_dir=runs/camvid --calibration_images=32

Pairs of int8 files are calibrated on disjoint images of the training list and scored on other
images of that list; the exit status is 1 unless the 95 % interval of every difference lies within
--bound.
"""

import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.post_training import PostTraining
from export.subject_flags import check_subject, define_subject_flags, open_subject

FLAGS = flags.FLAGS


def _define_flags() -> None:
    define_subject_flags()
    flags.DEFINE_string("split", "train", "List of the images; never the one you report on.")
    flags.DEFINE_integer("calibration_images", 32, "Images in each set.")
    flags.DEFINE_integer("pairs", 2, "Pairs of disjoint sets.", lower_bound=1)
    flags.DEFINE_integer("score_images", 96, "Other images that all files are scored on.")
    flags.DEFINE_integer("seed", 0, "Seed of the choice of images.")
    flags.DEFINE_float("bound", 0.005, "Largest difference in mIoU, fraction.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "How ranges are chosen.")


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 0 if the set is shown to be large enough, else 1.
    """
    check_subject()
    from export.experiments.calibration_stability import (  # noqa: PLC0415 - flags come first
        CalibrationCheckPlan,
        check_calibration,
    )

    run = open_subject(FLAGS.split)
    samples = run.open_list(FLAGS.split)
    height, width = run.input_size(samples)
    steps = PostTraining(ranges=RangeMethod(FLAGS.activation_ranges))
    plan = CalibrationCheckPlan(
        source=run.source,
        height=height,
        width=width,
        preprocessing=run.config.data.preprocessing,
        label_set=run.folder.read_labels(),
        dataset=samples,
        calibration_images=FLAGS.calibration_images,
        score_images=FLAGS.score_images,
        seed=FLAGS.seed,
        bound=FLAGS.bound,
        steps=steps if steps != PostTraining() else None,
        pairs=FLAGS.pairs,
    )
    result = check_calibration(plan)
    sys.stdout.write("\n".join(result.lines()) + "\n")
    return 0 if result.verdict.value == "stable" else 1


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

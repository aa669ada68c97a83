"""Ranks the layers of a run by the accuracy that they lose as integer layers.

    python -m export.sensitivity --run_dir=runs/camvid --budget=0.003

With --budget it also lists the layers to keep in float, as a flag for export.to_tflite. JSON, CSV
and plot go to <run_dir>/quantization.
"""

import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod
from deeplab_tf.quantization.ptq.equalization import Relu6
from deeplab_tf.quantization.ptq.post_training import PostTraining
from export.subject_flags import check_subject, define_subject_flags, open_subject

FLAGS = flags.FLAGS


def _define_flags() -> None:
    define_subject_flags()
    flags.DEFINE_string("split", "train", "List of the images; never the one you report on.")
    flags.DEFINE_integer("calibration_images", 32, "Images that ranges come from.", lower_bound=2)
    flags.DEFINE_integer("score_images", 24, "Other images that layers are scored on.")
    flags.DEFINE_integer("seed", 0, "Seed of the choice of images.")
    flags.DEFINE_float("budget", None, "mIoU that may be lost, fraction, such as 0.003.")
    flags.DEFINE_bool("per_channel", True, "One weight scale per channel; off: per kernel.")
    flags.DEFINE_bool("equalize", False, "First equalize neighbouring kernels.")
    flags.DEFINE_enum(
        "equalize_relu6", "exact", [m.value for m in Relu6], "Form of ReLU6 after equalization."
    )
    flags.DEFINE_bool("absorb_biases", False, "First absorb high biases.")
    methods = [member.value for member in RangeMethod]
    flags.DEFINE_enum("activation_ranges", "min_max", methods, "How ranges are chosen.")


def main() -> int:
    """Runs the command; returns the exit status."""
    if FLAGS.budget is not None and not 0 <= FLAGS.budget < 1:
        raise ValueError(
            f"--budget: expected a fraction of mIoU from 0 to below 1, got {FLAGS.budget}"
        )
    if FLAGS.score_images < 1:
        raise ValueError(f"--score_images must be at least 1, got {FLAGS.score_images}")
    check_subject()
    from export.experiments.sensitivity_report import (  # noqa: PLC0415 - flags are checked first
        SensitivityPlan,
        rank_layers,
        sensitivity_table,
        write_sensitivity,
    )

    run = open_subject(FLAGS.split)
    samples = run.open_list(FLAGS.split)
    height, width = run.input_size(samples)
    plan = SensitivityPlan(
        source=run.source,
        height=height,
        width=width,
        preprocessing=run.config.data.preprocessing,
        dataset=samples,
        calibration_images=FLAGS.calibration_images,
        score_images=FLAGS.score_images,
        seed=FLAGS.seed,
        steps=PostTraining(
            per_channel=FLAGS.per_channel,
            equalize=FLAGS.equalize,
            relu6=Relu6(FLAGS.equalize_relu6),
            absorb=FLAGS.absorb_biases,
            ranges=RangeMethod(FLAGS.activation_ranges),
        ),
        budget=FLAGS.budget,
    )
    measured, choice = rank_layers(plan)
    output_dir = run.output_dir
    write_sensitivity(plan, measured, choice=choice, folder=output_dir)
    sys.stdout.write(sensitivity_table(measured, choice) + "\n")
    sys.stdout.write(f"\nnumbers: {output_dir / 'sensitivity.json'}\n")
    return 0


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

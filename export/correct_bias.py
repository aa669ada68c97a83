"""Corrects the biases of a finished integer `.tflite`, ours or anyone's, without converting.

    python -m export.correct_bias --model=int8.tflite --reference=runs/camvid --dataset=camvid \
        --data_dir=DIR --output=corrected.tflite

Prints what was added to each layer's bias, and how far the logits are from the reference's before
and after. 32 photos of 480 x 368 take one to three minutes on two cores.
"""

import pathlib
import sys

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset

FLAGS = flags.FLAGS
_IMAGES = 32


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The integer .tflite file.", required=True)
    flags.DEFINE_string(
        "reference",
        "",
        "The network that the file was converted from: a float .tflite of the same size, or a run "
        "folder (its float weights). Left out: the file's own weights as floats; this corrects "
        "what the rounding of activations shifts, not what the rounding of weights does.",
    )
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Photos.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_string("output", None, "The new .tflite file.", required=True)
    flags.DEFINE_string("calibration_split", "train", "List that photos are chosen from.")
    flags.DEFINE_integer(
        "calibration_images", None, f"At least 2; default: {_IMAGES}, or all where there are fewer."
    )
    flags.DEFINE_integer("calibration_seed", 0, "Which.")
    flags.DEFINE_float("mean", None, "Of the input, in pixel units; default: the file's own.")
    flags.DEFINE_float("std", None, "Of the input, in pixel units; default: the file's own.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> None:
    calibration = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.calibration_split)
    from export.bias_correction.correction import correct_biases  # noqa: PLC0415
    from export.bias_correction.plan import (  # noqa: PLC0415 - flags are checked first
        BiasCorrectionPlan,
    )

    plan = BiasCorrectionPlan(
        pathlib.Path(FLAGS.model),
        pathlib.Path(FLAGS.output),
        calibration=calibration,
        reference=pathlib.Path(FLAGS.reference) if FLAGS.reference else None,
        calibration_images=min(_IMAGES, len(calibration))
        if FLAGS.calibration_images is None
        else FLAGS.calibration_images,
        calibration_seed=FLAGS.calibration_seed,
        mean=FLAGS.mean,
        std=FLAGS.std,
        overwrite=FLAGS.overwrite,
    )
    done = correct_biases(plan)
    sys.stdout.write(done.table() + "\n")
    for line in done.warnings():
        logging.warning("%s", line)
    logging.info(
        "%d layers corrected in %s; logits against the reference's: %.2f dB, before %.2f dB",
        len(done.layers),
        plan.output,
        done.snr_after_db,
        done.snr_before_db,
    )


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

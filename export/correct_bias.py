"""Corrects the biases of any finished integer `.tflite`, without a new conversion.

    python -m export.correct_bias --model=int8.tflite --reference=runs/camvid --dataset=camvid \
        --data_dir=DIR --output=corrected.tflite

Prints what was added to each layer's bias, and the distance of the logits from the reference's
before and after. 32 images of 480 x 368 take one to three minutes on two cores.
"""

import pathlib
import sys

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS
_IMAGES = 32


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The integer .tflite file.", required=True)
    flags.DEFINE_string(
        "reference",
        "",
        "The network that the file was converted from: a float .tflite of the same size, or a run "
        "folder (its float weights). Default: the file's own weights as floats; this corrects "
        "shifts by the rounding of activations, but not by the rounding of weights.",
    )
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set of the images.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_string("output", None, "The new .tflite file.", required=True)
    flags.DEFINE_string("calibration_split", "train", "List that images are chosen from.")
    flags.DEFINE_integer(
        "calibration_images", None, f"At least 2; default: {_IMAGES}, or all of a shorter list."
    )
    flags.DEFINE_integer("calibration_seed", 0, "Seed of the choice of images.")
    define_normalization_flags()
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> None:
    """Runs the command."""
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
        preprocessing=read_preprocessing(),
        overwrite=FLAGS.overwrite,
    )
    result = correct_biases(plan)
    sys.stdout.write(result.table() + "\n")
    for line in result.warnings():
        logging.warning("%s", line)
    logging.info(
        "%d layers corrected in %s; logits against the reference's: %.2f dB, before %.2f dB",
        len(result.layers),
        plan.output,
        result.snr_after_db,
        result.snr_before_db,
    )


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Converts a `.tflite` file to a Keras network that can be trained.

    python -m tflite_tools.to_keras --model=X.tflite --output_dir=D

Writes D/network.json (the layers), D/float.npz (the weights), D/ranges.json (activation ranges
of an integer file), D/report.md and D/report.json.
"""

import pathlib

from absl import flags, logging

from deeplab_tf import command, sandbox
from deeplab_tf.data.registry import DATASETS
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS
_SAME_NAME = (  # flags with the name and the value of a field of ImportConfig
    "trim_head",
    "output",
    "keep_outputs",
    "num_classes",
    "seed",
    "unfold_batch_norm",
    "simulate_quantization",
    "data_dir",
    "split",
    "calibration_images",
    "compare",
    "overwrite",
)


def _define_flags() -> None:
    sandbox.define_flag()
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_string("output_dir", None, "Folder to write.", required=True)
    flags.DEFINE_string("trim_head", "", "Cut the network after this tensor.")
    flags.DEFINE_string("output", "", "Which of several outputs a run trains; default: the first.")
    flags.DEFINE_bool("keep_outputs", True, "Exports give the other outputs as well, frozen.")
    flags.DEFINE_integer("num_classes", 0, "Classes of a new classifier at the cut; 0 = none.")
    flags.DEFINE_integer("seed", 0, "Seed of the new classifier's weights.")
    flags.DEFINE_bool(
        "unfold_batch_norm", False, "Insert a batch norm after every convolution; needs --dataset."
    )
    flags.DEFINE_bool(
        "simulate_quantization", False, "Round every tensor to the integer file's own steps."
    )
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Images to calibrate and compare on.")
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_string("split", "train", "Split of the data set.")
    flags.DEFINE_integer("calibration_images", 16, "Number of images.", lower_bound=1)
    flags.DEFINE_bool("compare", False, "Compare the network with the file; needs --dataset.")
    define_normalization_flags()
    flags.DEFINE_bool("overwrite", False, "Replace an earlier import.")


def main() -> None:
    """Runs the import that the flags describe."""
    from tflite_tools.to_keras import convert  # noqa: PLC0415 - flags are checked first

    config = convert.ImportConfig(
        model=pathlib.Path(FLAGS.model),
        output_dir=pathlib.Path(FLAGS.output_dir),
        dataset=FLAGS.dataset or "",
        preprocessing=read_preprocessing(),
        **{name: FLAGS[name].value for name in _SAME_NAME},
    )
    result = convert.convert(config)
    if result.fidelity:
        logging.info(
            "%.3f%% of the classes equal the file's on %d images",
            100 * result.fidelity[0].equal_classes,
            result.fidelity[0].images,
        )
    logging.info("done: %d nodes in %s", len(result.description.nodes), config.output_dir)


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main, outputs=lambda: [pathlib.Path(FLAGS.output_dir)])


if __name__ == "__main__":
    console()

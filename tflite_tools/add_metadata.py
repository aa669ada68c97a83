"""Writes labels and normalization into a `.tflite`, as MediaPipe, Android and others read them.

python -m tflite_tools.add_metadata --model=runs/mine/tflite/int8.tflite
python -m tflite_tools.add_metadata --model=theirs.tflite --labels=labels.txt --output=ready.tflite
python -m tflite_tools.add_metadata --model=float.tflite --labels=... --mean=0,0,0 --std=255,255,255
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.alignment import Alignment
from tflite_tools.deployment.add_metadata import AddOptions, add_metadata, default_output
from tflite_tools.deployment.client_rules import Client, check_file, findings_text
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing
from tflite_tools.manifest import RESIZES

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "The .tflite file.")
    flags.DEFINE_string("labels", "", "Text file, one name per line; default: the file's own.")
    define_normalization_flags()
    flags.DEFINE_enum("resize", None, RESIZES, "How the training resizes logits to the input.")
    flags.DEFINE_string("output", "", "Default: <model>_metadata.tflite.")
    flags.DEFINE_string("name", "", "Name of the model; default: the file's.")
    flags.DEFINE_string("license", "", "Licence of the weights.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def main() -> None:
    """Writes the file with metadata and checks it for MediaPipe."""
    if not FLAGS.model:
        raise ValueError("expected a file, got none; give --model=FILE.tflite")
    model = pathlib.Path(FLAGS.model)
    options = AddOptions(
        model=model,
        output=pathlib.Path(FLAGS.output) if FLAGS.output else default_output(model),
        labels=pathlib.Path(FLAGS.labels) if FLAGS.labels else None,
        preprocessing=read_preprocessing(),
        name=FLAGS.name,
        license=FLAGS.license,
        alignment=Alignment(FLAGS.resize) if FLAGS.resize else None,
        overwrite=FLAGS.overwrite,
    )
    metadata = add_metadata(options)
    sys.stdout.write(
        f"{options.output}: {len(metadata.labels)} labels ({', '.join(metadata.labels)})\n"
    )
    findings = check_file(options.output, Client.MEDIAPIPE)
    sys.stdout.write(findings_text(options.output, Client.MEDIAPIPE, findings=findings) + "\n")


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

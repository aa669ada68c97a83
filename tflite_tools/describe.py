"""Says at a glance what a `.tflite` takes, gives and costs, and prints the lines that feed it.

python -m tflite_tools.describe int8.tflite
python -m tflite_tools.describe int8.tflite --json
"""

import json
import pathlib
import sys

from absl import flags

from deeplab_tf import command, sandbox
from tflite_tools.description.description import describe
from tflite_tools.description.report import as_json, as_text
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS


def _define_flags() -> None:
    sandbox.define_flag()
    flags.DEFINE_string("model", "", "The .tflite file; may stand without --model=.")
    flags.DEFINE_bool("json", False, "Print JSON.")
    flags.DEFINE_string("output", "", "Name or number of the output to read, of several.")
    define_normalization_flags()
    flags.DEFINE_integer("repeats", 5, "Timed runs; 0 = not timed.", lower_bound=0)


def main() -> None:
    """Describes the file."""
    if not FLAGS.model:
        raise ValueError("expected a file, got none; python -m tflite_tools.describe FILE.tflite")
    found = describe(
        pathlib.Path(FLAGS.model),
        read_preprocessing(),
        output=FLAGS.output,
        repeats=FLAGS.repeats,
    )
    text = json.dumps(as_json(found), indent=1) + "\n" if FLAGS.json else as_text(found)
    sys.stdout.write(text)


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main, positional="model")


if __name__ == "__main__":
    console()

"""Lists the operators of a `.tflite` that an accelerator would run, without the accelerator.

python -m tflite_tools.check_target --model=int8.tflite --target=edgetpu
python -m tflite_tools.check_target --model=int8.tflite --target=ethos-u55-128 --json=report.json

Exit status: 0 when every operator is mapped, 1 if one would stay off the accelerator (or the check
failed, with one line on stderr), 2 for wrong flags. Targets: edgetpu (documented rules),
ethos-u55/u65/u85-MACS (compiles with Arm's Vela: pip install 'deeplab-tflite[vela]'), gpu and
nnapi[-API level] (rules of the TFLite delegates).
"""

import json
import sys

from absl import flags

from deeplab_tf import atomic_file, command
from tflite_tools.deployment.targets import report
from tflite_tools.deployment.targets.registry import TARGETS, check_target
from tflite_tools.flatbuffer.graph import read_checked_graph

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", "", "File to check.")
    flags.DEFINE_enum("target", None, list(TARGETS), "Accelerator.")
    flags.DEFINE_string("json", "", "Also writes the result, operator by operator, here.")


def main() -> int:
    """Checks the file for the target and prints the result.

    Returns:
        1 if an operator would stay off the accelerator, else 0.
    """
    if not FLAGS.model:
        raise ValueError("expected a file, got none; give --model=FILE.tflite")
    if FLAGS.target is None:
        raise ValueError(f"expected a target, got none; give --target, one of {', '.join(TARGETS)}")
    result = check_target(read_checked_graph(FLAGS.model), FLAGS.target)
    sys.stdout.write(report.to_text(result))
    if FLAGS.json:
        atomic_file.write_text(FLAGS.json, json.dumps(report.to_json(result), indent=1) + "\n")
    return 1 if result.left_off else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

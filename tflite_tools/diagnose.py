"""Finds what is wrong with a `.tflite`, shows the numbers, and names the remedy.

python -m tflite_tools.diagnose --model=int8.tflite --dataset=camvid --data_dir=DIR
python -m tflite_tools.diagnose --model=int8.tflite --reference=float32.tflite --dataset=...

The exit status is 1 if a problem is found, 0 with warnings only. Without a data set only the
graph is checked.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command, sandbox
from deeplab_tf.data.registry import DATASETS, open_dataset
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.diagnosis.report import as_text, write_json
from tflite_tools.evaluation.evaluation import default_processes
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing

FLAGS = flags.FLAGS


def _define_flags() -> None:
    sandbox.define_flag()
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Labelled images; none: graph only.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List of images.")
    flags.DEFINE_integer("limit", 0, "Only the first so many images; 0 = all.")
    flags.DEFINE_integer("sample", 8, "Images for other ways of feeding and for inner tensors.")
    flags.DEFINE_string("reference", "", "Float .tflite of the same network: layer by layer.")
    define_normalization_flags()
    flags.DEFINE_string("labels", "", "Class names to judge, one per line; default: the file's.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one per core.")
    flags.DEFINE_string("json", "", "Also write the findings here.")


def main() -> int:
    """Diagnoses the file and prints the findings.

    Returns:
        1 if a problem is found, else 0.
    """
    effort = Effort(FLAGS.limit, FLAGS.sample, processes=FLAGS.processes or default_processes())
    dataset = (
        open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split) if FLAGS.dataset else None
    )
    case = open_case(
        pathlib.Path(FLAGS.model),
        read_preprocessing(),
        labels=pathlib.Path(FLAGS.labels) if FLAGS.labels else None,
        reference=pathlib.Path(FLAGS.reference) if FLAGS.reference else None,
        dataset=dataset,
    )
    diagnosis = diagnose(case, effort)
    sys.stdout.write(as_text(diagnosis))
    if FLAGS.json:
        write_json(diagnosis, case, path=pathlib.Path(FLAGS.json))
    return 1 if diagnosis.problems else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(
        main, outputs=lambda: [pathlib.Path(FLAGS.json).absolute().parent] if FLAGS.json else []
    )


if __name__ == "__main__":
    console()

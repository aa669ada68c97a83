"""Finds what is wrong with a `.tflite`, shows the numbers, and says the cure.

python -m tflite_tools.diagnose --model=int8.tflite --dataset=camvid --data_dir=DIR
python -m tflite_tools.diagnose --model=int8.tflite --reference=float32.tflite --dataset=...

Status 1 where a problem is found, 0 with warnings only. Without a data set only the graph is
looked at.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from tflite_tools.diagnosis.case import open_case
from tflite_tools.diagnosis.diagnosis import diagnose
from tflite_tools.diagnosis.observation import Effort
from tflite_tools.diagnosis.report import as_text, write_json
from tflite_tools.evaluation.evaluation import default_processes

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("model", None, "The .tflite file.", required=True)
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Labelled photos; none: graph only.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List of photos.")
    flags.DEFINE_integer("limit", 0, "Only the first so many photos; 0 = all.")
    flags.DEFINE_integer("sample", 8, "Photos for other ways to feed and for inner tensors.")
    flags.DEFINE_string("reference", "", "Float .tflite of the same network: layer by layer.")
    flags.DEFINE_list("mean", "", "Pixel mean of each channel; default: the file's own.")
    flags.DEFINE_list("std", "", "Pixel divisor of each channel; with --mean.")
    flags.DEFINE_string("labels", "", "Class names to judge, one a line; default: the file's.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one a core.")
    flags.DEFINE_string("json", "", "Also write the findings here.")


def _preprocessing() -> Preprocessing | None:
    mean = [value for value in FLAGS.mean if value]
    std = [value for value in FLAGS.std if value]
    if not mean and not std:
        return None
    try:
        return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))
    except ValueError as error:
        raise ValueError(f"--mean and --std: {error}") from error


def main() -> int:
    effort = Effort(FLAGS.limit, FLAGS.sample, processes=FLAGS.processes or default_processes())
    dataset = (
        open_dataset(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split) if FLAGS.dataset else None
    )
    case = open_case(
        pathlib.Path(FLAGS.model),
        _preprocessing(),
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
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

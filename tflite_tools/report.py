"""Writes one self-contained web page about `.tflite` files, to read and to send.

python -m tflite_tools.report --run_dir=runs/camvid
python -m tflite_tools.report --model=a.tflite,b.tflite --dataset=camvid --data_dir=DIR

`index.html` needs no other file and no network. Beside it: `metrics.json`, `metrics.csv` and
`model_card.md`.
"""

import json
import pathlib
import shlex
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS
from tflite_tools import evaluate as scoring
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes
from tflite_tools.evaluation.tables import terminal_table
from tflite_tools.file_list import read_contracts, unread_text
from tflite_tools.html_report.collect import collect
from tflite_tools.html_report.page import PAGE, refuse_old, write_report

FLAGS = flags.FLAGS


def _define_flags() -> None:
    """Those of tflite_tools.evaluate, which reads them, less its picture."""
    flags.DEFINE_list("model", "", "Files to report on.")
    flags.DEFINE_string("run_dir", "", "Run folder; reports on <run_dir>/tflite/*.tflite.")
    flags.DEFINE_string("reference", "", "File that others are compared with; default: float32.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one a core.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 30, "Timed invokes a file; 0 = no timing.")
    flags.DEFINE_integer("latency_warmup", 3, "Invokes before timing.")
    flags.DEFINE_list("mean", "", "Pixel mean of each channel; default: the file's own.")
    flags.DEFINE_list("std", "", "Pixel divisor of each channel; with --mean.")
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/report, else ./report.")
    flags.DEFINE_bool("overwrite", False, "Replace a report that is there.")


def _run_config() -> dict | None:
    """What the run was trained with, for the model card."""
    path = pathlib.Path(FLAGS.run_dir) / "config.json"
    if not FLAGS.run_dir or not path.is_file():
        return None
    try:
        return dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: not the configuration of a run ({error})") from error


def main() -> int:
    default = pathlib.Path(FLAGS.run_dir) / "report" if FLAGS.run_dir else "report"
    output_dir = pathlib.Path(FLAGS.output_dir or default)
    refuse_old(output_dir, FLAGS.overwrite)
    run_config = _run_config()
    paths = list(dict.fromkeys(scoring.chosen_paths()))  # --model may name a file of the run
    if FLAGS.reference and pathlib.Path(FLAGS.reference) not in paths:
        paths.insert(0, pathlib.Path(FLAGS.reference))
    preprocessing = scoring.given_preprocessing()
    needed = pathlib.Path(FLAGS.reference) if FLAGS.reference else None
    contracts, unread = read_contracts(
        paths, scoring.table_names(paths), preprocessing=preprocessing, needed=needed
    )
    options = EvaluationOptions(
        processes=FLAGS.processes or default_processes(),
        num_threads=FLAGS.num_threads,
        latency_repeats=FLAGS.latency_repeats,
        latency_warmup=FLAGS.latency_warmup,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
    )
    typed = shlex.join(["python", "-m", "tflite_tools.report", *sys.argv[1:]])
    reference = scoring.reference_index(contracts)
    report = collect(
        contracts,
        scoring.chosen_dataset(),
        options=options,
        reference=reference,
        command=typed,
        unread=tuple(unread),
    )
    write_report(report, output_dir, run_config=run_config)
    results = [file.result for file in report.files]
    sys.stdout.write(terminal_table(results, report.dataset, options=options) + "\n\n")
    if unread:
        sys.stdout.write(unread_text(unread) + "\n\n")
    sys.stdout.write(f"report: {output_dir / PAGE}; beside it metrics.json, metrics.csv, ")
    sys.stdout.write("model_card.md\n")
    return 1 if unread or any(result.failure for result in results) else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

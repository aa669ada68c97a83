"""Writes one self-contained web page about `.tflite` files, to read and to send.

python -m tflite_tools.report --run_dir=runs/camvid
python -m tflite_tools.report --model=a.tflite,b.tflite --dataset=camvid --data_dir=DIR

`index.html` needs no other file and no network. `metrics.json`, `metrics.csv` and
`model_card.md` are written to the same folder.
"""

import pathlib
import shlex
import sys

from absl import flags

from deeplab_tf import command
from tflite_tools import evaluation_flags
from tflite_tools.evaluation.tables import terminal_table
from tflite_tools.file_list import unread_text
from tflite_tools.html_report.collect import collect
from tflite_tools.html_report.page import PAGE, check_output_dir, write_report
from tflite_tools.html_report.phones import read_phones

FLAGS = flags.FLAGS


def _define_flags() -> None:
    evaluation_flags.define_evaluation_flags()
    evaluation_flags.define_timing_flags()
    evaluation_flags.define_normalization_flags()
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/report, else ./report.")
    flags.DEFINE_integer(
        "block_length", 0, "Neighbouring images an interval takes together; 0: measured."
    )
    flags.DEFINE_list(
        "phone_results", "", "result.json files of pages for phones; each becomes rows."
    )
    flags.DEFINE_bool("overwrite", False, "Replace a report that exists.")


def main() -> int:
    """Scores the files and writes the report.

    Returns:
        1 if a file could not be read or failed, else 0.
    """
    request = evaluation_flags.read_request(block_length=FLAGS.block_length)
    output_dir = evaluation_flags.output_dir(FLAGS.output_dir, default="report")
    check_output_dir(output_dir, FLAGS.overwrite)
    run_config = request.run_config()
    contracts, unread = request.read_contracts()
    phones = read_phones([pathlib.Path(name) for name in FLAGS.phone_results if name], contracts)
    report = collect(
        contracts,
        request.open_dataset(),
        options=request.options,
        reference=request.reference_index(contracts),
        command=shlex.join(["python", "-m", "tflite_tools.report", *sys.argv[1:]]),
        unread=tuple(unread),
        phones=tuple(phones),
    )
    write_report(report, output_dir, run_config=run_config)
    results = [file.result for file in report.files]
    sys.stdout.write(
        terminal_table(results, report.dataset, options=request.options, reference=report.reference)
        + "\n\n"
    )
    if unread:
        sys.stdout.write(unread_text(unread) + "\n\n")
    sys.stdout.write(f"report: {output_dir / PAGE}; also metrics.json, metrics.csv, ")
    sys.stdout.write("model_card.md\n")
    return 1 if unread or any(result.failure for result in results) else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

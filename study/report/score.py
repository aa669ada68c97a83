"""Scores the files of one run and keeps the confusion matrix of every image.

python -m study.report.score --run_dir=runs/camvid --output_dir=scores

Like tflite_tools.evaluate without times and pictures; the cells of a study are compared by these
scores.
"""

import pathlib

from absl import flags, logging

from deeplab_tf import command
from study.report.matrices import write_matrices
from tflite_tools import evaluation_flags
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import evaluate
from tflite_tools.evaluation.request import table_names
from tflite_tools.evaluation.tables import write_metrics

FLAGS = flags.FLAGS


def _define_flags() -> None:
    evaluation_flags.define_evaluation_flags(run_dir_required=True)
    flags.DEFINE_string("output_dir", None, "For the scores.", required=True)


def main() -> int:
    """Scores the files and writes their matrices and metrics.

    Returns:
        1 if a file failed, else 0.
    """
    request = evaluation_flags.read_request(latency_repeats=0, keep_images=True, mean_loss=True)
    paths = request.paths()
    contracts = [
        read_contract(path, None, name=name)
        for path, name in zip(paths, table_names(paths), strict=True)
    ]
    dataset = request.open_dataset()
    results = evaluate(
        contracts, dataset, options=request.options, reference=request.reference_index(contracts)
    )
    output_dir = pathlib.Path(FLAGS.output_dir)
    write_matrices(results, output_dir)
    # Last: that it exists means that the scores are complete.
    write_metrics(results, dataset, options=request.options, output_dir=output_dir)
    for result in results:
        if result.failure:
            logging.error("%s FAILED: %s", result.contract.name, result.failure)
    return 1 if any(result.failure for result in results) else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Scores the files of one run and keeps the confusion matrix of every photo.

python -m study.report.score --run_dir=runs/camvid --output_dir=scores

Like tflite_tools.evaluate without times and pictures; what a study's cells are compared by.
"""

import pathlib

from absl import flags, logging

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS
from study.report.matrices import write_matrices
from tflite_tools import evaluate as scoring
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes, evaluate
from tflite_tools.evaluation.tables import write_metrics

FLAGS = flags.FLAGS


def _define_flags() -> None:
    """Those of tflite_tools.evaluate that accuracy depends on; its functions read them."""
    flags.DEFINE_list("model", "", "More files to score.")
    flags.DEFINE_string("run_dir", None, "Scores <run_dir>/tflite/*.tflite.", required=True)
    flags.DEFINE_string("reference", "", "File that agreement is counted with; default: float32.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one a core.")
    flags.DEFINE_string("output_dir", None, "For the scores.", required=True)


def main() -> int:
    paths = scoring.chosen_paths()
    contracts = [
        read_contract(path, None, name=name)
        for path, name in zip(paths, scoring.table_names(paths), strict=True)
    ]
    dataset = scoring.chosen_dataset()
    options = EvaluationOptions(
        processes=FLAGS.processes or default_processes(),
        latency_repeats=0,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
        keep_images=True,
        mean_loss=True,
    )
    results = evaluate(
        contracts, dataset, options=options, reference=scoring.reference_index(contracts)
    )
    output_dir = pathlib.Path(FLAGS.output_dir)
    write_matrices(results, output_dir)
    write_metrics(
        results, dataset, options=options, output_dir=output_dir
    )  # last: it says that all is there
    for result in results:
        if result.failure:
            logging.error("%s FAILED: %s", result.contract.name, result.failure)
    return 1 if any(result.failure for result in results) else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Trains, exports and scores a grid of networks, and writes one page about all of them.

    python -m study.compare --study=studies/tiny_synthetic.json

Run the same command again to resume; a finished cell is not run again. The page, `index.html`, and
its numbers are in --output_dir, with one folder per cell in `cells/`. study/plan.py describes the
study file.
"""

import pathlib
import shlex
import sys

from absl import flags, logging

from deeplab_tf import atomic_file, bounded_file, command
from deeplab_tf.data.registry import open_dataset
from export.conversion.variants import Variant
from study.cell import CellState, StudyFolder
from study.command_flags import check_flags
from study.plan import Study, read_study
from study.report.collect import StudyScope, collect_study
from study.report.page import PAGE, study_table, write_study
from study.report.timing import TimingOptions
from study.schedule import run_cells
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("study", None, "Study file, JSON.", required=True)
    flags.DEFINE_string("output_dir", "", "Default: runs/<name of the study>.")
    flags.DEFINE_integer("processes", 1, "Cells that run in parallel.")
    flags.DEFINE_bool("overwrite", False, "Run cells again whose settings have changed.")
    flags.DEFINE_bool("report_only", False, "Run nothing; write the page from existing results.")
    flags.DEFINE_integer("latency_repeats", 30, "Timed runs per file; 0 = no timing.")
    flags.DEFINE_integer("latency_warmup", 3, "Runs before timing.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_bool("photos", True, "Show images of the best and worst cell on the page.")


def _scope(study: Study, output_dir: pathlib.Path) -> StudyScope:
    """Returns what the page compares, and on which list."""
    evaluate, train = study.evaluate, study.train
    chosen = evaluate.get("mean_over", [])
    chosen = chosen if isinstance(chosen, list) else str(chosen).split(",")
    return StudyScope(
        name=study.name,
        folder=output_dir,
        axes=study.grid,
        train=study.train,
        cells={cell.name: cell.choice for cell in study.cells},
        variants=study.variants,
        dataset=open_dataset(
            train["dataset"], train.get("data_dir", ""), split=evaluate.get("split", "val")
        ),
        options=EvaluationOptions(
            processes=default_processes(),
            limit=evaluate.get("limit", 0),
            mean_over=tuple(chosen),
        ),
        command=shlex.join(["python", "-m", "study.compare", *sys.argv[1:]]),
    )


def main() -> int:
    """Runs the command.

    Returns:
        exit status: 1 if a cell failed.

    Raises:
        FileNotFoundError: a run that a cell learns from does not exist.
    """
    study = read_study(FLAGS.study)
    command.enum_members("study, variants", list(study.variants), kind=Variant)
    check_flags(study)
    timing = TimingOptions(
        FLAGS.latency_repeats, FLAGS.latency_warmup, num_threads=FLAGS.num_threads
    )
    output_dir = pathlib.Path(FLAGS.output_dir or pathlib.Path("runs") / study.name)
    scope = _scope(study, output_dir)
    scope.options.mean_indices(scope.dataset)  # before the work, not after
    folder = StudyFolder(output_dir, study)
    if not FLAGS.report_only:
        if missing := study.missing_teacher():
            raise FileNotFoundError(
                f"{FLAGS.study}: no run to learn from for {missing}; train that run first"
            )
        folder.prepare(FLAGS.overwrite)
        atomic_file.write_text(output_dir / "study.json", bounded_file.read_text(FLAGS.study))
        logging.info("%d cells, %d in parallel", len(study.cells), FLAGS.processes)
        run_cells(folder, FLAGS.processes)
    document = write_study(collect_study(scope, timing), output_dir, with_photos=FLAGS.photos)
    sys.stdout.write(study_table(document) + "\n\n")
    sys.stdout.write(f"page: {output_dir / PAGE}, with study_results.json and .csv\n")
    states = [cell["state"] for cell in document["cells"]]
    return 1 if CellState.FAILED.value in states else 0


def console() -> None:
    """Entry point of the command."""
    _define_flags()
    command.run(main, resume="the same command resumes the study")


if __name__ == "__main__":
    console()

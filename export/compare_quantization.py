"""Runs the ladder of quantization methods on one trained network: one table, one plot.

    python -m export.compare_quantization --run_dir=runs/camvid

Files, `ladder.json`, `ladder.csv` and `ladder.png` go to <run_dir>/quantization. Other
quantization-aware runs of the network join as rows: --runs=qat_stock=runs/a,qat_distilled=runs/b.
The same command goes on where it was stopped: a file is made once.
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS, open_dataset

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_string("run_dir", None, "Run folder of the float network.", required=True)
    flags.DEFINE_list(
        "runs", "", "name=RUN_DIR of quantization-aware runs; 'qat' = --run_dir's own."
    )
    flags.DEFINE_list(
        "rungs", "", "Only these and float32; default: all. --rungs=help lists their names."
    )
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/quantization.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("calibration_split", "train", "List that ranges are calibrated on.")
    flags.DEFINE_integer("calibration_images", 32, "How many.", lower_bound=1)
    flags.DEFINE_integer("calibration_seed", 0, "Which.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 20, "Timed invokes a file; 0 = no timing.")
    flags.DEFINE_bool("overwrite", False, "Replace files that exist.")


def _runs() -> dict[str, pathlib.Path]:
    runs = {}
    for entry in FLAGS.runs:
        name, equals, path = entry.partition("=")
        if entry and not (name and equals and path):
            raise ValueError(f"--runs takes name=RUN_DIR,...; got {entry!r}")
        if entry:
            runs[name] = pathlib.Path(path)
    return runs


def _chosen(rungs):
    wanted = [name for name in FLAGS.rungs if name]
    known = [rung.name for rung in rungs]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--rungs: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return [rung for rung in rungs if not wanted or rung.name in (*wanted, "float32")]


def main() -> int:
    runs = _runs()
    if FLAGS.calibration_split == FLAGS.split:
        raise ValueError(
            f"--calibration_split and --split are both {FLAGS.split}; a score on the calibration "
            "list says nothing, choose another"
        )
    from deeplab_tf.runs.config import read_config  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.runs.folder import RunFolder  # noqa: PLC0415
    from export.conversion.pipeline import ExportPlan  # noqa: PLC0415
    from export.conversion.source import RunSource  # noqa: PLC0415
    from export.conversion.variants import Variant  # noqa: PLC0415
    from export.experiments import comparison as ladder  # noqa: PLC0415
    from tflite_tools.evaluation.evaluation import (  # noqa: PLC0415
        EvaluationOptions,
        default_processes,
    )

    folder = RunFolder(pathlib.Path(FLAGS.run_dir))
    config = read_config(folder.path)
    source = RunSource(folder)
    rungs = ladder.post_training_rungs()
    if source.quantization_aware:
        rungs.append(ladder.Rung("qat", Variant.QAT_INT8, steps=None, source=source))
    for name, path in runs.items():
        rungs.append(
            ladder.Rung(name, Variant.QAT_INT8, steps=None, source=RunSource(RunFolder(path)))
        )
    dataset, data_dir = FLAGS.dataset or config.data.dataset, FLAGS.data_dir or config.data.data_dir
    if not dataset:
        raise ValueError(f"{folder.path} names no data set; give --dataset and --data_dir")
    calibration = open_dataset(dataset, data_dir, split=FLAGS.calibration_split)
    evaluation = open_dataset(dataset, data_dir, split=FLAGS.split)
    rungs = _chosen(rungs)
    folder.check_classes(evaluation)
    options = EvaluationOptions(
        processes=default_processes(),
        num_threads=FLAGS.num_threads,
        latency_repeats=FLAGS.latency_repeats,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
    )
    options.mean_indices(evaluation)
    output_dir = pathlib.Path(FLAGS.output_dir or folder.path / "quantization")
    height, width = config.model.padded_size(*calibration.image(0).shape[:2])
    plan = ExportPlan(
        output_dir=output_dir,
        height=height,
        width=width,
        files=[],
        preprocessing=config.data.preprocessing,
        label_set=folder.read_labels(),
        calibration_dataset=calibration,
        calibration_images=min(FLAGS.calibration_images, len(calibration)),
        calibration_seed=FLAGS.calibration_seed,
        overwrite=FLAGS.overwrite,
    )
    rows = ladder.climb(
        ladder.Ladder(source, rungs, plan=plan, evaluation=evaluation, options=options)
    )
    ladder.write_ladder(rows, evaluation, options=options, output_dir=output_dir)
    sys.stdout.write(ladder.ladder_table(rows, evaluation, options=options) + "\n")
    sys.stdout.write(
        f"\nnumbers: {output_dir / 'ladder.json'}, plot: {output_dir / 'ladder.png'}\n"
    )
    return 1 if any(row.failure for row in rows) else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

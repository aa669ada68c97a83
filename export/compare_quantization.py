"""Runs the comparison of quantization methods on one trained network: one table, one plot.

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
        "methods", "", "Only these and float32; default: all. --methods=help lists their names."
    )
    flags.DEFINE_alias("rungs", "methods")
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


def _chosen(methods):
    wanted = [name for name in FLAGS.methods if name]
    known = [method.name for method in methods]
    if unknown := [name for name in wanted if name not in known]:
        raise ValueError(f"--methods: unknown {', '.join(unknown)}; known: {', '.join(known)}")
    return [method for method in methods if not wanted or method.name in (*wanted, "float32")]


def main() -> int:
    runs = _runs()
    if FLAGS.calibration_split == FLAGS.split:
        raise ValueError(
            f"--calibration_split and --split are both {FLAGS.split}; a score on the calibration "
            "list says nothing, choose another"
        )
    from deeplab_tf.training.config import read_config  # noqa: PLC0415 - flags are checked first
    from deeplab_tf.training.run_folder import RunFolder  # noqa: PLC0415
    from export.conversion.pipeline import ExportPlan  # noqa: PLC0415
    from export.conversion.source import RunSource  # noqa: PLC0415
    from export.conversion.variants import Variant  # noqa: PLC0415
    from export.experiments import comparison  # noqa: PLC0415
    from tflite_tools.evaluation.evaluation import (  # noqa: PLC0415
        EvaluationOptions,
        default_processes,
    )

    folder = RunFolder(pathlib.Path(FLAGS.run_dir))
    config = read_config(folder.path)
    source = RunSource(folder)
    methods = comparison.post_training_methods()
    if source.quantization_aware:
        methods.append(comparison.Method("qat", Variant.QAT_INT8, steps=None, source=source))
    for name, path in runs.items():
        methods.append(
            comparison.Method(name, Variant.QAT_INT8, steps=None, source=RunSource(RunFolder(path)))
        )
    dataset, data_dir = FLAGS.dataset or config.dataset, FLAGS.data_dir or config.data_dir
    if not dataset:
        raise ValueError(f"{folder.path} names no data set; give --dataset and --data_dir")
    calibration = open_dataset(dataset, data_dir, split=FLAGS.calibration_split)
    evaluation = open_dataset(dataset, data_dir, split=FLAGS.split)
    methods = _chosen(methods)
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
        preprocessing=config.preprocessing,
        label_set=folder.read_labels(),
        calibration_dataset=calibration,
        calibration_images=min(FLAGS.calibration_images, len(calibration)),
        calibration_seed=FLAGS.calibration_seed,
        overwrite=FLAGS.overwrite,
    )
    rows = comparison.compare_methods(
        comparison.Comparison(source, methods, plan=plan, evaluation=evaluation, options=options)
    )
    comparison.write_comparison(rows, evaluation, options=options, output_dir=output_dir)
    sys.stdout.write(comparison.comparison_table(rows, evaluation, options=options) + "\n")
    sys.stdout.write(
        f"\nnumbers: {output_dir / 'ladder.json'}, plot: {output_dir / 'ladder.png'}\n"
    )
    return 1 if any(row.failure for row in rows) else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

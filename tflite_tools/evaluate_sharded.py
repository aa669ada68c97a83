"""Scores `.tflite` files on a long list in shards, through Apache Beam.

    python -m tflite_tools.evaluate_sharded --model=a.tflite --dataset=camvid --data_dir=DIR \
        --runner=DirectRunner --shards=8

The confusion matrices equal those of `tflite_tools.evaluate`, bit for bit. Needs Apache Beam (the
extra `beam`), best in an environment of its own: it requires older versions of protobuf and Pillow
than this project is tested with. Several processes on one machine:
--beam_options=direct_num_workers=2,direct_running_mode=multi_processing
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.registry import DATASETS
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import EvaluationOptions
from tflite_tools.evaluation.request import table_names
from tflite_tools.evaluation.tables import terminal_table, write_metrics
from tflite_tools.evaluation.tiled import OFF, tiling_note
from tflite_tools.evaluation_flags import define_normalization_flags, read_preprocessing
from tflite_tools.file_list import UnreadFile, read_contracts, unread_text

FLAGS = flags.FLAGS


def _define_flags() -> None:
    flags.DEFINE_list("model", None, "Files to score.", required=True)
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder of --dataset, the same on every worker.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    define_normalization_flags()
    flags.DEFINE_integer("shards", 8, "Parts that the list is cut in.")
    flags.DEFINE_integer("tile_overlap", OFF, "As in tflite_tools.evaluate; -1 = off.")
    flags.DEFINE_string("runner", "DirectRunner", "Beam's runner.")
    flags.DEFINE_list("beam_options", "", "Further options of the pipeline: name=value,...")
    flags.DEFINE_string("scratch_dir", "", "Folder that all workers can write to.")
    flags.DEFINE_string("output_dir", "sharded_evaluation", "Folder for metrics.json and .csv.")


def _contracts() -> tuple[list[ModelContract], list[UnreadFile]]:
    preprocessing = read_preprocessing()
    paths = [pathlib.Path(path) for path in FLAGS.model if path]
    if not paths:
        raise ValueError("expected a file, got none; give --model=FILE[,FILE...]")
    return read_contracts(paths, table_names(paths), preprocessing=preprocessing)


def main() -> int:
    """Scores the files shard by shard and writes the table and the numbers.

    Returns:
        1 if a file could not be read or failed, else 0.
    """
    try:
        from tflite_tools.evaluation import sharded  # noqa: PLC0415 - the extra may be missing
    except ImportError as error:
        raise RuntimeError(
            f"sharded evaluation needs Apache Beam ({error}); install the extra `beam` in an "
            "environment of its own"
        ) from error
    contracts, unread = _contracts()
    source = sharded.ListSource(FLAGS.dataset, FLAGS.data_dir, split=FLAGS.split)
    dataset = source.open()
    options = EvaluationOptions(
        latency_repeats=0,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
        tile_overlap=FLAGS.tile_overlap,
    )
    options.mean_indices(dataset)  # before the work, not after
    results = sharded.evaluate_sharded(
        contracts,
        source,
        shards=FLAGS.shards,
        limit=FLAGS.limit,
        runner=FLAGS.runner,
        beam_options=tuple(FLAGS.beam_options),
        scratch=FLAGS.scratch_dir,
        tile_overlap=options.tile_overlap,
    )
    output_dir = pathlib.Path(FLAGS.output_dir)
    if options.tile_overlap != OFF:
        sys.stdout.write(tiling_note(options.tile_overlap) + "\n\n")
    sys.stdout.write(terminal_table(results, dataset, options=options) + "\n")
    write_metrics(results, dataset, options=options, output_dir=output_dir, unread=unread)
    if unread:
        sys.stdout.write(unread_text(unread) + "\n")
    sys.stdout.write(f"\nnumbers: {output_dir / 'metrics.json'} and metrics.csv\n")
    return 1 if unread or any(result.failure for result in results) else 0


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Scores `.tflite` files on a labelled list: accuracy, size, time, memory, masks to look at.

python -m tflite_tools.evaluate --run_dir=runs/camvid
python -m tflite_tools.evaluate --model=a.tflite,b.tflite --dataset=voc --data_dir=DIR
python -m tflite_tools.evaluate --model=a.tflite --dataset=loveda --data_dir=DIR --tile_overlap=64
"""

import pathlib
import sys

from absl import flags

from deeplab_tf import command, sandbox
from tflite_tools import evaluation_flags
from tflite_tools.evaluation.mask_grid import grid_samples, write_grid
from tflite_tools.evaluation.request import evaluate_request
from tflite_tools.evaluation.tables import terminal_table, write_metrics
from tflite_tools.evaluation.tiled import OFF, tiling_note
from tflite_tools.file_list import unread_text

FLAGS = flags.FLAGS


def _define_flags() -> None:
    sandbox.define_flag()
    evaluation_flags.define_evaluation_flags()
    evaluation_flags.define_timing_flags()
    evaluation_flags.define_normalization_flags()
    flags.DEFINE_integer(
        "tile_overlap",
        OFF,
        "Larger images are cut in tiles of the input's size that overlap by so many pixels at "
        "least, and stitched; -1 = they are scaled to fit.",
    )
    flags.DEFINE_bool("mean_loss", False, "Also the cross-entropy of files that give logits.")
    flags.DEFINE_integer("grid_images", 6, "Rows of the picture; 0 = no picture.")
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/evaluation, else ./evaluation.")


def main() -> int:
    """Scores the files and writes the table, the numbers and the masks.

    Returns:
        1 if a file could not be read or failed, else 0.
    """
    request = evaluation_flags.read_request(
        tile_overlap=FLAGS.tile_overlap, mean_loss=FLAGS.mean_loss
    )
    evaluation = evaluate_request(request)
    results, unread, dataset = evaluation.results, evaluation.unread, evaluation.dataset
    options = request.options
    output_dir = _output_dir()
    write_metrics(results, dataset, options=options, output_dir=output_dir, unread=unread)
    if options.tile_overlap != OFF:
        sys.stdout.write(tiling_note(options.tile_overlap) + "\n\n")
    table = terminal_table(results, dataset, options=options, reference=evaluation.reference)
    sys.stdout.write(table + "\n")
    if unread:
        sys.stdout.write(unread_text(unread) + "\n")
    working = [result.contract for result in results if not result.failure]
    if FLAGS.grid_images and working:
        picture = output_dir / "masks.png"
        scored = min(options.limit or len(dataset), len(dataset))
        rows = grid_samples(FLAGS.grid_images, scored)
        write_grid(working, dataset, samples=rows, path=picture, tile_overlap=options.tile_overlap)
        sys.stdout.write(f"\nmasks side by side: {picture}\n")
    sys.stdout.write(f"numbers: {output_dir / 'metrics.json'} and metrics.csv\n")
    return 1 if evaluation.failed else 0


def _output_dir() -> pathlib.Path:
    return evaluation_flags.output_dir(FLAGS.output_dir, default="evaluation")


def console() -> None:
    """Runs the command."""
    _define_flags()
    command.run(main, outputs=lambda: [_output_dir()])


if __name__ == "__main__":
    console()

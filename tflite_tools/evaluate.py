"""Scores `.tflite` files on a labelled list: accuracy, size, time, memory, masks to look at.

python -m tflite_tools.evaluate --run_dir=runs/camvid
python -m tflite_tools.evaluate --model=a.tflite,b.tflite --dataset=voc --data_dir=DIR
python -m tflite_tools.evaluate --model=a.tflite --dataset=loveda --data_dir=DIR --tile_overlap=64
"""

import json
import pathlib
import sys

from absl import flags

from deeplab_tf import command
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.registry import DATASETS, open_dataset
from tflite_tools.contract import ModelContract
from tflite_tools.evaluation.evaluation import EvaluationOptions, default_processes, evaluate
from tflite_tools.evaluation.mask_grid import grid_samples, write_grid
from tflite_tools.evaluation.tables import terminal_table, write_metrics
from tflite_tools.evaluation.tiled import OFF, setting
from tflite_tools.file_list import read_contracts, unread_text

FLAGS = flags.FLAGS
_ORDER = ("float32", "float16", "dynamic_range", "int16x8", "int8", "qat_int8")


def _define_flags() -> None:
    flags.DEFINE_list("model", "", "Files to score.")
    flags.DEFINE_string("run_dir", "", "Run folder; scores <run_dir>/tflite/*.tflite.")
    flags.DEFINE_string("reference", "", "File that agreement is counted with; default: float32.")
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Default: the run's own.")
    flags.DEFINE_string("data_dir", "", "Folder of --dataset.")
    flags.DEFINE_string("split", "val", "List to score on.")
    flags.DEFINE_integer("limit", 0, "Only the first so many samples; 0 = all.")
    flags.DEFINE_list("mean_over", "", "Classes that mIoU is the mean of; default: all.")
    flags.DEFINE_integer(
        "tile_overlap",
        OFF,
        "Larger photos are cut in tiles of the input's size that overlap by so many pixels at "
        "least, and stitched; -1 = they are scaled to fit.",
    )
    flags.DEFINE_bool("mean_loss", False, "Also the cross-entropy of files that give logits.")
    flags.DEFINE_integer("processes", 0, "Interpreters side by side; 0 = one a core.")
    flags.DEFINE_integer("num_threads", 1, "Threads of the interpreter that is timed.")
    flags.DEFINE_integer("latency_repeats", 30, "Timed invokes a file; 0 = no timing.")
    flags.DEFINE_integer("latency_warmup", 3, "Invokes before timing.")
    flags.DEFINE_list("mean", "", "Pixel mean of each channel; default: the file's own.")
    flags.DEFINE_list("std", "", "Pixel divisor of each channel; with --mean.")
    flags.DEFINE_integer("grid_images", 6, "Rows of the picture; 0 = no picture.")
    flags.DEFINE_string("output_dir", "", "Default: <run_dir>/evaluation, else ./evaluation.")


def chosen_paths() -> list[pathlib.Path]:
    paths = [pathlib.Path(name) for name in FLAGS.model if name]
    if FLAGS.run_dir:
        if not pathlib.Path(FLAGS.run_dir).is_dir():
            raise FileNotFoundError(f"{FLAGS.run_dir}: no such folder; check --run_dir")
        folder = pathlib.Path(FLAGS.run_dir) / "tflite"
        whole = [path for path in folder.glob("*.tflite") if not path.name.startswith(".")]
        found = sorted(whole, key=_place_in_table)
        if not found:
            raise FileNotFoundError(f"{folder}: no .tflite; run export.to_tflite first")
        paths += found
    if not paths:
        raise ValueError("give --model=FILE[,FILE...] or --run_dir")
    return paths


def _place_in_table(path: pathlib.Path):
    stem = path.stem.removesuffix("_argmax")
    known = _ORDER.index(stem) if stem in _ORDER else len(_ORDER)
    return path.stem.endswith("_argmax"), known, path.stem


def table_names(paths: list[pathlib.Path]) -> list[str]:
    """Stems, with the folder in front where two files share one."""
    stems = [path.stem for path in paths]
    return [
        path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}/{path.stem}"
        for path in paths
    ]


def given_preprocessing() -> Preprocessing | None:
    mean = [value for value in FLAGS.mean if value]
    std = [value for value in FLAGS.std if value]
    if not mean and not std:
        return None
    try:
        return Preprocessing(tuple(map(float, mean)), tuple(map(float, std)))
    except ValueError as error:
        raise ValueError(f"--mean and --std: {error}") from error


def chosen_dataset():
    dataset, data_dir = FLAGS.dataset, FLAGS.data_dir
    if dataset is None:
        if not FLAGS.run_dir:
            raise ValueError("give --dataset and --data_dir")
        # Not through deeplab_tf.training: that would load TensorFlow to read two words.
        path = pathlib.Path(FLAGS.run_dir) / "config.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: not a run folder; give --dataset and --data_dir")
        try:
            stored = json.loads(path.read_text())
            dataset, data_dir = stored["dataset"], data_dir or stored["data_dir"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the configuration of a run ({error})") from error
    return open_dataset(dataset, data_dir, split=FLAGS.split)


def reference_index(contracts: list[ModelContract]) -> int | None:
    for index, contract in enumerate(contracts):
        wanted = pathlib.Path(FLAGS.reference) if FLAGS.reference else None
        if contract.path == wanted or (wanted is None and contract.variant == "float32"):
            return index
    return None


def main() -> int:
    paths = chosen_paths()
    if FLAGS.reference and pathlib.Path(FLAGS.reference) not in paths:
        paths.insert(0, pathlib.Path(FLAGS.reference))
    preprocessing = given_preprocessing()
    needed = pathlib.Path(FLAGS.reference) if FLAGS.reference else None
    contracts, unread = read_contracts(
        paths, table_names(paths), preprocessing=preprocessing, needed=needed
    )
    dataset = chosen_dataset()
    options = EvaluationOptions(
        processes=FLAGS.processes or default_processes(),
        num_threads=FLAGS.num_threads,
        latency_repeats=FLAGS.latency_repeats,
        latency_warmup=FLAGS.latency_warmup,
        limit=FLAGS.limit,
        mean_over=tuple(name for name in FLAGS.mean_over if name),
        tile_overlap=FLAGS.tile_overlap,
        mean_loss=FLAGS.mean_loss,
    )
    results = evaluate(contracts, dataset, options=options, reference=reference_index(contracts))
    default = pathlib.Path(FLAGS.run_dir) / "evaluation" if FLAGS.run_dir else "evaluation"
    output_dir = pathlib.Path(FLAGS.output_dir or default)
    write_metrics(results, dataset, options=options, output_dir=output_dir, unread=unread)
    if options.tile_overlap != OFF:
        sys.stdout.write(setting(options.tile_overlap) + "\n\n")
    sys.stdout.write(terminal_table(results, dataset, options=options) + "\n")
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
    return 1 if unread or any(result.failure for result in results) else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

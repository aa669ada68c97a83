"""A file of any kind as the start of a training: imported into a folder that --init_from takes."""

import json
import pathlib

from absl import logging

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.runs.folder import Phase
from export.conversion.foreign_operators import SAVED_MODEL
from export.conversion.imported import float_file
from export.conversion.recipe import file_digest
from export.conversion.source import KerasFileSource, SavedModelSource, Source
from export.conversion.variants import Head
from tflite_tools.to_keras.convert import ImportConfig, convert

FOLDER = "start"
"""Inside the run folder: the imported network, with a report."""
_CONVERTED = "start.tflite"
_RECORD = "source.json"
_BATCH_NORM_IMAGES = 16


def is_network_file(path: pathlib.Path) -> bool:
    """Returns whether a path is a file or SavedModel with a network, not weights or a run folder.

    Args:
        path: what the user gave.
    """
    if path.is_dir():
        return (path / SAVED_MODEL).is_file()
    return path.suffix in (".tflite", ".keras", ".h5", ".hdf5")


def import_start(
    path: pathlib.Path,
    run_dir: pathlib.Path,
    *,
    dataset: SegmentationDataset,
    data_dir: str,
    preprocessing: Preprocessing | None,
    batch_norm: bool,
    output: str = "",
) -> pathlib.Path:
    """Imports a network into `<run_dir>/start`, once for each content and setting.

    Args:
        path: `.tflite`, `.keras`, `.h5`, or the folder of a SavedModel.
        run_dir: of the training.
        dataset: the training list, for statistics of batch norms.
        data_dir: its folder.
        preprocessing: normalization of the network's input; None for the file's own.
        batch_norm: put batch norms back, which float training needs.
        output: which of several outputs is trained; "" for the first that is a segmentation.

    Returns:
        the folder.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the network cannot be imported.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    folder = run_dir / FOLDER
    record = {
        "sha256": _digest(path),
        "batch_norm": batch_norm,
        "mean": preprocessing and list(preprocessing.mean),
        "std": preprocessing and list(preprocessing.std),
        "output": output,
    }
    stored = folder / _RECORD
    if _is_done(stored, record):
        return folder
    model = path
    if path.suffix != ".tflite":
        source: Source = (
            SavedModelSource(path, output=output)
            if path.is_dir()
            else KerasFileSource(path, output, keep_outputs=True)
        )
        output = next((name for number, name in source.named_outputs if number == 0), "")
        model = run_dir / _CONVERTED
        _write_float_file(source, model, size=dataset.image(0).shape[:2])
    logging.info("%s is imported into %s", path, folder)
    convert(
        ImportConfig(
            model=model,
            output_dir=folder,
            unfold_batch_norm=batch_norm,
            dataset=dataset.name,
            data_dir=data_dir,
            split=dataset.split,
            calibration_images=min(_BATCH_NORM_IMAGES, len(dataset)),
            preprocessing=preprocessing,
            output=output,
            overwrite=True,
        )
    )
    atomic_file.write_text(stored, json.dumps(record, indent=2) + "\n")
    return folder


def _write_float_file(source: Source, path: pathlib.Path, *, size: tuple[int, int]) -> None:
    """Converts a network to a float `.tflite` at its own size, else at the given one."""
    height, width = source.fixed_size or size
    frozen = source.frozen(Phase.FLOAT, Head.LOGITS_LOW, height=height, width=width)
    atomic_file.write_bytes(path, float_file(frozen, source.named_outputs))


def _digest(path: pathlib.Path) -> str:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return file_digest(*files)


def _is_done(stored: pathlib.Path, record: dict) -> bool:
    try:
        return bounded_file.read_json(stored) == record
    except (FileNotFoundError, ValueError):  # missing, or not whole: imported again
        return False

"""Confusion matrices of every photo, kept beside the scores: what intervals are drawn from."""

import pathlib

import numpy as np

from deeplab_tf import atomic_file
from tflite_tools.evaluation.evaluation import ModelResult

FILE_NAME = "matrices.npz"


def write_matrices(results: list[ModelResult], folder: pathlib.Path) -> None:
    """Writes `matrices.npz`: a file's name -> uint32 [photos, num_classes, num_classes + 1]."""
    arrays = {
        result.contract.path.name: result.image_matrices
        for result in results
        if result.image_matrices is not None and not result.failure
    }
    with atomic_file.atomic_path(folder / FILE_NAME) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_matrices(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """What `write_matrices` wrote.

    Raises:
        ValueError: missing or damaged.
    """
    path = folder / FILE_NAME
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            return {name: content[name] for name in content.files}
    except Exception as error:  # zipfile, zlib and NumPy each raise their own
        raise ValueError(f"{path}: no matrices ({error}); delete the folder to score again") from (
            error
        )

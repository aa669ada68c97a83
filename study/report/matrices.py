"""Confusion matrices of every image, stored with the scores; intervals are computed from them."""

import pathlib

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.weights.npz import open_arrays
from tflite_tools.evaluation.evaluation import ModelResult

FILE_NAME = "matrices.npz"

_EXPANSION = 1100
"""Most that deflate reaches: matrices of many classes are almost empty."""


def write_matrices(results: list[ModelResult], folder: pathlib.Path) -> None:
    """Writes `matrices.npz`: {file name: uint32 [images, num_classes, num_classes + 1]}.

    Args:
        results: scores of the files; those that failed are skipped.
        folder: where to write.
    """
    arrays = {
        result.contract.path.name: result.image_matrices
        for result in results
        if result.image_matrices is not None and not result.failure
    }
    with atomic_file.atomic_path(folder / FILE_NAME) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_matrices(folder: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the file of `write_matrices`.

    Args:
        folder: that holds it.

    Returns:
        {file name: uint32 [images, num_classes, num_classes + 1]}.

    Raises:
        ValueError: the file is missing or damaged.
    """
    path = folder / FILE_NAME
    try:
        with open_arrays(path, expansion=_EXPANSION) as content:
            return {name: content[name] for name in content.files}
    except Exception as error:  # zipfile, zlib and NumPy raise different errors
        raise ValueError(f"{path}: no matrices ({error}); delete the folder to score again") from (
            error
        )

"""Weights files: "layer/weight" arrays in one `.npz`, which contains no code to run."""

import contextlib
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.weights.hdf5 import ALWAYS_ALLOWED_BYTES, LARGEST_EXPANSION


def save_weights(arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes "layer/weight" arrays atomically.

    Args:
        arrays: keyed "layer/weight".
        path: of the `.npz` file.
    """
    with atomic_file.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


@contextlib.contextmanager
def open_arrays(
    path: pathlib.Path, *, expansion: int = LARGEST_EXPANSION
) -> Iterator[np.lib.npyio.NpzFile]:
    """Opens a `.npz` after checking that it does not unpack to far more than its size.

    Args:
        path: of the file.
        expansion: largest number of array bytes per byte of the file.

    Yields:
        The open file.

    Raises:
        ValueError: it does; what else NumPy and zipfile raise is left to the caller.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > ALWAYS_ALLOWED_BYTES + expansion * size:
        raise ValueError(f"its arrays need {unpacked} bytes, but the file has only {size}")
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
        yield content


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a weights file.

    Args:
        path: of the `.npz` file.

    Returns:
        {"layer/weight": array}; float16 arrays are converted to float32.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not a weights file, or NaN or infinity in it.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    try:
        with open_arrays(path) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:
        raise ValueError(
            f"{path}: not a weights file (.npz of arrays: {str(error)[:200]}); give a run's "
            "float.npz, a .h5 or a .tflite"
        ) from error
    for name, value in arrays.items():
        if value.dtype.kind not in "biuf":
            raise ValueError(f"{path}: {name} has dtype {value.dtype}; expected plain numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} contains NaN or infinity; the training diverged")
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in arrays.items()
    }

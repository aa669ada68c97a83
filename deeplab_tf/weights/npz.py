"""Weights files: "layer/weight" arrays in one `.npz`, which contains no code to run."""

import pathlib

import numpy as np

from deeplab_tf import atomic_file


def save_weights(arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes "layer/weight" arrays atomically.

    Args:
        arrays: keyed "layer/weight".
        path: of the `.npz` file.
    """
    with atomic_file.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)  # type: ignore[arg-type]


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
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except Exception as error:
        raise ValueError(
            f"{path}: not a weights file (.npz of arrays); give a run's float.npz, a .h5 or a "
            ".tflite"
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

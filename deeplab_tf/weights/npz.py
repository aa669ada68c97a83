"""Weights as "layer/weight" arrays in one `.npz`: no code inside, nothing to run on loading."""

import pathlib

import numpy as np

from deeplab_tf import atomic_file


def save_weights(arrays: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Writes "layer/weight" arrays, the file whole or not at all."""
    with atomic_file.atomic_path(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **arrays)


def read_weights(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a weights file; float16 arrays come back as float32.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a weights file.
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
            raise ValueError(f"{path}: {name} holds {value.dtype}; weights are plain numbers")
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; the training diverged")
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in arrays.items()
    }

"""The data sets by name. A new one is its own file and one line here."""

import pathlib

from deeplab_tf.data import camvid
from deeplab_tf.data.dataset import SegmentationDataset

DATASETS = {
    "camvid": camvid.open_split,
}


def open_dataset(name: str, data_dir: str | pathlib.Path | None, split: str) -> SegmentationDataset:
    """Opens a split.

    Raises:
        ValueError: unknown data set or split, or an empty split.
        FileNotFoundError: the folder or a list is missing.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {sorted(DATASETS)}")
    if name == "synthetic":
        return DATASETS[name](split)
    if not data_dir:
        raise ValueError(f"data set {name!r} needs --data_dir, the folder that holds it")
    folder = pathlib.Path(data_dir)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder; --data_dir must hold {name}")
    return DATASETS[name](folder, split)

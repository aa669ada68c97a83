"""Registry of data sets by name. A new data set is one module and one line here."""

import pathlib
from collections.abc import Callable

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.readers import (
    ade20k,
    camvid,
    cityscapes,
    floodnet,
    folder,
    loveda,
    potsdam,
    semantic_kitti,
    synthetic,
    voc,
)

DATASETS: dict[str, Callable[[pathlib.Path, str], SegmentationDataset]] = {
    "ade20k": ade20k.open_split,
    "camvid": camvid.open_split,
    "cityscapes": cityscapes.open_split,
    "floodnet": floodnet.open_split,
    "folder": folder.open_split,
    "loveda": loveda.open_split,
    "potsdam": potsdam.open_potsdam,
    "semantic_kitti": semantic_kitti.open_split,
    "synthetic": synthetic.open_split,
    "vaihingen": potsdam.open_vaihingen,
    "voc": voc.open_split,
}

GENERATED = ("synthetic",)
"""Data sets that are generated and need no folder."""


def open_dataset(
    name: str, data_dir: str | pathlib.Path | None, *, split: str
) -> SegmentationDataset:
    """Opens a split of a data set.

    Args:
        name: key of `DATASETS`.
        data_dir: folder of the data set; not used for generated ones.
        split: name of the split.

    Returns:
        The split.

    Raises:
        ValueError: unknown data set or split, or an empty split.
        FileNotFoundError: the folder or a list is missing. Where a folder holds labels of another
            format, this error and the one before name the command that converts it.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {sorted(DATASETS)}")
    if name in GENERATED:
        return DATASETS[name](pathlib.Path(), split)
    if not data_dir:
        raise ValueError(f"data set {name!r} needs --data_dir, the folder of its files")
    root = pathlib.Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(
            f"{root}: no such folder; --data_dir must name the folder of the data set"
        )
    try:
        return DATASETS[name](root, split)
    except (FileNotFoundError, ValueError) as error:
        if name != "folder" or not (hint := _convert_hint(root)):
            raise
        raise type(error)(f"{error}; {hint}") from error


def _convert_hint(root: pathlib.Path) -> str:
    """Says how to convert a folder that holds labels of another format."""
    from deeplab_tf.data.convert.formats import convert_hint  # noqa: PLC0415 - only after an error

    return convert_hint(root)

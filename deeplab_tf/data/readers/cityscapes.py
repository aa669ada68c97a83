"""Cityscapes, fine annotations, the 19 evaluated classes.

Cordts et al. 2016, arXiv:1604.01685; ids, names and colours of cityscapesScripts, labels.py.
Masks are `*_gtFine_labelIds.png` of the archive; no preparation is needed.
"""

import pathlib

import numpy as np

from deeplab_tf.data.dataset import FileDataset, pair_by_stem
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet

LABEL_SET = LabelSet(
    names=(
        "road",
        "sidewalk",
        "building",
        "wall",
        "fence",
        "pole",
        "traffic light",
        "traffic sign",
        "vegetation",
        "terrain",
        "sky",
        "person",
        "rider",
        "car",
        "truck",
        "bus",
        "train",
        "motorcycle",
        "bicycle",
    ),
    colors=(
        (128, 64, 128),
        (244, 35, 232),
        (70, 70, 70),
        (102, 102, 156),
        (190, 153, 153),
        (153, 153, 153),
        (250, 170, 30),
        (220, 220, 0),
        (107, 142, 35),
        (152, 251, 152),
        (70, 130, 180),
        (220, 20, 60),
        (255, 0, 0),
        (0, 0, 142),
        (0, 0, 70),
        (0, 60, 100),
        (0, 80, 100),
        (0, 0, 230),
        (119, 11, 32),
    ),
)
TRAIN_LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Stored id of each class, in the order of the classes."""

LARGEST_LABEL_ID = 33
_IMAGE_ENDING = "_leftImg8bit.png"
_MASK_ENDING = "_gtFine_labelIds.png"


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens the split in `leftImg8bit/<split>/<city>` and `gtFine/<split>/<city>`.

    Args:
        data_dir: folder that holds leftImg8bit and gtFine.
        split: train or val.

    Returns:
        The split.

    Raises:
        FileNotFoundError: a folder of the split does not exist.
        ValueError: the split is empty, or an image or mask has no counterpart.
    """
    images = _find(data_dir, "leftImg8bit", split=split, ending=_IMAGE_ENDING)
    masks = _find(data_dir, "gtFine", split=split, ending=_MASK_ENDING)
    # Photos of one city were taken on the same drives: frankfurt/frankfurt_000000_000294.
    samples = pair_by_stem(
        images, masks, where=str(data_dir), group_of=lambda name: name.partition("/")[0]
    )
    return FileDataset(
        "cityscapes",
        split,
        label_set=LABEL_SET,
        data_dir=data_dir,
        samples=samples,
        id_table=_id_table(),
    )


def _find(data_dir: pathlib.Path, kind: str, *, split: str, ending: str) -> dict[str, str]:
    """Returns the path relative to data_dir of each `<city>/<name>` without its ending."""
    folder = data_dir / kind / split
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder; Cityscapes needs <data_dir>/leftImg8bit/<split> and "
            "<data_dir>/gtFine/<split>; check --data_dir and --split"
        )
    return {
        path.relative_to(folder).as_posix().removesuffix(ending): path.relative_to(
            data_dir
        ).as_posix()
        for path in folder.glob(f"*/*{ending}")
    }


def _id_table() -> np.ndarray:
    """Maps the stored ids 0..33 to classes; -1 (license plate) is stored as 255."""
    table = np.full(256, -1, np.int16)
    table[: LARGEST_LABEL_ID + 1] = IGNORE_LABEL
    table[255] = IGNORE_LABEL
    table[list(TRAIN_LABEL_IDS)] = np.arange(len(TRAIN_LABEL_IDS))
    return table

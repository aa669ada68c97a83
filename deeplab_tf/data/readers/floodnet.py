"""FloodNet supervised v1.0: drone images after a hurricane, 10 classes.

Rahnemoonfar et al. 2021, FloodNet, arXiv:2012.02951. Images are 4000x3000 and larger; masks
`<name>_lab.png` store the class of each pixel, and 0 (background) is a class. The colour masks of
the authors are not read.
"""

import pathlib

from deeplab_tf.data.dataset import FileDataset, identity_ids, pair_by_stem
from deeplab_tf.data.labels import LabelSet

LABEL_SET = LabelSet(
    names=(
        "background",
        "building-flooded",
        "building-non-flooded",
        "road-flooded",
        "road-non-flooded",
        "water",
        "tree",
        "vehicle",
        "pool",
        "grass",
    ),
    colors=(
        (0, 0, 0),
        (255, 0, 0),
        (180, 120, 120),
        (160, 150, 20),
        (140, 140, 140),
        (61, 230, 250),
        (0, 82, 255),
        (255, 0, 245),
        (255, 235, 0),
        (4, 250, 7),
    ),
)
ARCHIVE_FOLDER = "FloodNet-Supervised_v1.0"
_IMAGE_ENDING = ".jpg"
_MASK_ENDING = "_lab.png"


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens the split in `<split>-org-img` and `<split>-label-img`, or both in a folder `<split>`.

    Args:
        data_dir: FloodNet-Supervised_v1.0, or the folder that contains it.
        split: train, val or test.

    Returns:
        The split.

    Raises:
        FileNotFoundError: a folder of the split does not exist.
        ValueError: the split is empty, or an image or mask has no counterpart.
    """
    parent = _find_parent(data_dir, split)
    images = _find(data_dir, f"{parent}{split}-org-img", ending=_IMAGE_ENDING)
    masks = _find(data_dir, f"{parent}{split}-label-img", ending=_MASK_ENDING)
    samples = pair_by_stem(images, masks, where=str(data_dir))
    table = identity_ids(LABEL_SET.num_classes)
    return FileDataset(
        "floodnet", split, label_set=LABEL_SET, data_dir=data_dir, samples=samples, id_table=table
    )


def _find_parent(data_dir: pathlib.Path, split: str) -> str:
    """Returns the prefix of `<split>-org-img`: empty, or folders that end with a slash."""
    for folder in (f"{ARCHIVE_FOLDER}/{split}/", f"{ARCHIVE_FOLDER}/", f"{split}/", ""):
        if (data_dir / f"{folder}{split}-org-img").is_dir():
            return folder
    raise FileNotFoundError(
        f"{data_dir / f'{split}-org-img'}: no such folder, nor {split}/{split}-org-img; FloodNet "
        "has train, val and test; check --data_dir and --split"
    )


def _find(data_dir: pathlib.Path, folder: str, *, ending: str) -> dict[str, str]:
    """Returns the path relative to data_dir of each name without its ending, in any case."""
    if not (data_dir / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / folder}: no such folder; images and masks need neighbouring folders"
        )
    return {
        path.name[: -len(ending)]: f"{folder}/{path.name}"
        for path in (data_dir / folder).iterdir()
        if path.name.lower().endswith(ending)
    }

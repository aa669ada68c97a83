"""LoveDA, land cover from the air, 7 classes, photos of 1024x1024 at 0.3 m a pixel.

Wang et al. 2021, LoveDA, arXiv:2110.08733. Masks are gray PNGs that store 0 for no data (ignored)
and 1..7 for the classes, which become 0..6. Three layouts, the first that is there:

1. `Train/{Rural,Urban}/{images_png,masks_png}/*.png`, `Val/...` as the archives bring them.
2. `img_dir/<split>` and `ann_dir/<split>` of MMSegmentation's conversion (the same ids).
3. `images/` and `labels/` without splits: `val` is a fifth of the photos, chosen by a fixed seed
   among all, and `train` the rest. Adding photos changes the division.
"""

import dataclasses
import pathlib

import numpy as np

from deeplab_tf.data.dataset import (
    FileDataset,
    SegmentationDataset,
    hold_out,
    pair_by_stem,
)
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet

LABEL_SET = LabelSet(
    names=("background", "building", "road", "water", "barren", "forest", "agriculture"),
    colors=(
        (255, 255, 255),
        (255, 0, 0),
        (255, 255, 0),
        (0, 0, 255),
        (159, 129, 183),
        (0, 255, 0),
        (255, 195, 128),
    ),
)
DIVISION_SEED = 0
_ENDINGS = (".png", ".jpg", ".jpeg")


def open_split(data_dir: pathlib.Path, split: str) -> SegmentationDataset:
    """Opens a split of LoveDA in one of the layouts above.

    Args:
        data_dir: the folder that holds Train and Val, or img_dir, or images.
        split: train or val; the official test list has no public masks.

    Raises:
        FileNotFoundError: none of the layouts, or not this split of it.
        ValueError: the split is empty, or a photo or mask stands alone.
    """
    official = data_dir / split.capitalize()
    if official.is_dir():
        return _open(data_dir, split, sides=_official(data_dir, split.capitalize()))
    if (data_dir / "img_dir" / split).is_dir():
        folders = f"img_dir/{split}", f"ann_dir/{split}"
        photos, masks = (_find(data_dir, folder) for folder in folders)
        return _open(data_dir, split, sides=(photos, masks))
    if not (data_dir / "images").is_dir():
        raise FileNotFoundError(
            f"{official}: no such folder; LoveDA needs Train and Val, or img_dir and ann_dir with "
            "a folder a split, or images and labels, check --data_dir and --split"
        )
    sides = _find(data_dir, "images"), _find(data_dir, "labels")
    whole = _open(data_dir, split, sides=sides)
    return _divided(whole, split)


def _open(
    data_dir: pathlib.Path, split: str, *, sides: tuple[dict[str, str], dict[str, str]]
) -> FileDataset:
    photos, masks = sides
    samples = pair_by_stem(photos, masks, where=str(data_dir))
    return FileDataset(
        "loveda",
        split,
        label_set=LABEL_SET,
        data_dir=data_dir,
        samples=samples,
        id_table=_id_table(),
    )


def _official(data_dir: pathlib.Path, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Photos and masks of each `<domain>/<name>`."""
    photos: dict[str, str] = {}
    masks: dict[str, str] = {}
    for domain in sorted(path.name for path in (data_dir / folder).iterdir() if path.is_dir()):
        for kind, found in (("images_png", photos), ("masks_png", masks)):
            below = _find(data_dir, f"{folder}/{domain}/{kind}")
            found |= {f"{domain}/{stem}": path for stem, path in below.items()}
    return photos, masks


def _find(data_dir: pathlib.Path, folder: str) -> dict[str, str]:
    """Path below data_dir of each name."""
    if not (data_dir / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / folder}: no such folder; LoveDA has masks for train and val only, "
            "beside the photos; check --data_dir and --split"
        )
    found: dict[str, str] = {}
    for path in sorted((data_dir / folder).iterdir()):
        if path.suffix.lower() not in _ENDINGS:
            continue
        name = f"{folder}/{path.name}"
        if path.stem in found:
            raise ValueError(f"{data_dir}: {found[path.stem]} and {name} have one name; remove one")
        found[path.stem] = name
    return found


def _divided(whole: FileDataset, split: str) -> SegmentationDataset:
    if split not in ("train", "val"):
        raise ValueError(
            f"{whole.data_dir}: images without lists are divided into train and val; {split!r} "
            "was asked for"
        )
    rest, held_out = hold_out(whole, max(1, round(len(whole) / 5)), seed=DIVISION_SEED)
    return dataclasses.replace(rest if split == "train" else held_out, split=split)  # type: ignore[type-var]


def _id_table() -> np.ndarray:
    """0 is ignored, 1..7 are the classes; 255 must not occur: masks whose ids somebody moved
    down by one hold it, and would be read one class off.
    """
    table = np.full(LABEL_SET.num_classes + 1, IGNORE_LABEL, np.int16)
    table[1:] = np.arange(LABEL_SET.num_classes)
    return table

"""LoveDA: land cover in aerial images, 7 classes, 1024x1024 at 0.3 m per pixel.

Wang et al. 2021, LoveDA, arXiv:2110.08733. Masks are gray PNGs that store 0 for no data (ignored)
and 1..7 for the classes, which become 0..6. There are three layouts; the first one found is used:

1. `Train/{Rural,Urban}/{images_png,masks_png}/*.png`, `Val/...`, as in the archives.
2. `img_dir/<split>` and `ann_dir/<split>` of MMSegmentation's conversion (the same ids).
3. `images/` and `labels/` without splits: `val` is a fifth of all images, chosen with a fixed seed,
   and `train` is the rest. Adding images changes the division.
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
        split: train or val; the masks of the official test split are not public.

    Returns:
        The split.

    Raises:
        FileNotFoundError: none of the layouts, or the split is missing in it.
        ValueError: the split is empty, or an image or mask has no counterpart.
    """
    official = data_dir / split.capitalize()
    if official.is_dir():
        return _open(data_dir, split, sides=_official(data_dir, split.capitalize()))
    if (data_dir / "img_dir" / split).is_dir():
        folders = f"img_dir/{split}", f"ann_dir/{split}"
        images, masks = (_find(data_dir, folder) for folder in folders)
        return _open(data_dir, split, sides=(images, masks))
    if not (data_dir / "images").is_dir():
        raise FileNotFoundError(
            f"{official}: no such folder; LoveDA needs Train and Val, or img_dir and ann_dir with "
            "one folder per split, or images and labels; check --data_dir and --split"
        )
    sides = _find(data_dir, "images"), _find(data_dir, "labels")
    whole = _open(data_dir, split, sides=sides)
    return _divided(whole, split)


def _open(
    data_dir: pathlib.Path, split: str, *, sides: tuple[dict[str, str], dict[str, str]]
) -> FileDataset:
    images, masks = sides
    samples = pair_by_stem(images, masks, where=str(data_dir))
    return FileDataset(
        "loveda",
        split,
        label_set=LABEL_SET,
        data_dir=data_dir,
        samples=samples,
        id_table=_id_table(),
    )


def _official(data_dir: pathlib.Path, folder: str) -> tuple[dict[str, str], dict[str, str]]:
    """Returns the images and the masks by `<domain>/<name>`."""
    images: dict[str, str] = {}
    masks: dict[str, str] = {}
    for domain in sorted(path.name for path in (data_dir / folder).iterdir() if path.is_dir()):
        for kind, found in (("images_png", images), ("masks_png", masks)):
            below = _find(data_dir, f"{folder}/{domain}/{kind}")
            found |= {f"{domain}/{stem}": path for stem, path in below.items()}
    return images, masks


def _find(data_dir: pathlib.Path, folder: str) -> dict[str, str]:
    """Returns the path relative to data_dir of each name."""
    if not (data_dir / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / folder}: no such folder; LoveDA has masks for train and val only, "
            "next to the images; check --data_dir and --split"
        )
    found: dict[str, str] = {}
    for path in sorted((data_dir / folder).iterdir()):
        if path.suffix.lower() not in _ENDINGS:
            continue
        name = f"{folder}/{path.name}"
        if path.stem in found:
            raise ValueError(
                f"{data_dir}: {found[path.stem]} and {name} have the same name; remove one"
            )
        found[path.stem] = name
    return found


def _divided(whole: FileDataset, split: str) -> SegmentationDataset:
    if split not in ("train", "val"):
        raise ValueError(
            f"{whole.data_dir}: images without lists are divided into train and val; got split "
            f"{split!r}"
        )
    rest, held_out = hold_out(whole, max(1, round(len(whole) / 5)), seed=DIVISION_SEED)
    return dataclasses.replace(rest if split == "train" else held_out, split=split)  # type: ignore[type-var]


def _id_table() -> np.ndarray:
    """Maps 0 to ignored and 1..7 to the classes.

    255 must not occur: it indicates masks whose ids were shifted down by one, which would be read
    with wrong classes.
    """
    table = np.full(LABEL_SET.num_classes + 1, IGNORE_LABEL, np.int16)
    table[1:] = np.arange(LABEL_SET.num_classes)
    return table

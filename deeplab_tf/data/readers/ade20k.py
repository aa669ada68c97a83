"""ADE20K in the layout of the scene parsing benchmark (SceneParse150), 150 classes.

Zhou et al. 2017, Scene Parsing through ADE20K Dataset. Masks store 0 for everything else (ignored)
and 1..150 for the classes, which become 0..149.
"""

import pathlib

import numpy as np

from deeplab_tf.data.dataset import FileDataset, pair_by_stem, read_lines
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet

NUM_CLASSES = 150
NAMES_FILE = "objectInfo150.txt"
_FOLDERS = {"train": "training", "val": "validation"}


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens the split in `images/<folder>` and `annotations/<folder>`.

    Args:
        data_dir: ADEChallengeData2016, the folder that holds objectInfo150.txt.
        split: training or validation, or, for short, train or val.

    Returns:
        The split.

    Raises:
        FileNotFoundError: a folder of the split or objectInfo150.txt does not exist.
        ValueError: the list of names does not have the official form, the split is empty, or an
            image or mask has no counterpart.
    """
    folder = _FOLDERS.get(split, split)
    images = _find(data_dir, "images", folder=folder, ending=".jpg")
    masks = _find(data_dir, "annotations", folder=folder, ending=".png")
    label_set = LabelSet.from_names(_read_names(data_dir / NAMES_FILE))
    samples = pair_by_stem(images, masks, where=str(data_dir), group_of=lambda name: name)
    return FileDataset(
        "ade20k",
        split,
        label_set=label_set,
        data_dir=data_dir,
        samples=samples,
        id_table=_id_table(),
    )


def _find(data_dir: pathlib.Path, kind: str, *, folder: str, ending: str) -> dict[str, str]:
    if not (data_dir / kind / folder).is_dir():
        raise FileNotFoundError(
            f"{data_dir / kind / folder}: no such folder; ADE20K needs images and annotations "
            "with training and validation in each; check --data_dir and --split"
        )
    return {
        path.stem: path.relative_to(data_dir).as_posix()
        for path in (data_dir / kind / folder).glob(f"*{ending}")
    }


def _read_names(path: pathlib.Path) -> list[str]:
    """Reads the column Name of the official list, in the order of the column Idx."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; the class names come from the official {NAMES_FILE} in "
            "--data_dir"
        )
    lines = [line.split("\t") for line in read_lines(path) if line.strip()]
    header, rows = (lines[0], lines[1:]) if lines else ([], [])
    if "Idx" not in header or "Name" not in header:
        raise ValueError(f"{path}: expected tab-separated columns Idx and Name, got {header}")
    short = next((number for number, row in enumerate(rows, 1) if len(row) < len(header)), None)
    if short:
        raise ValueError(f"{path}: row {short} lacks a column; use the official file")
    names = {row[header.index("Idx")].strip(): row[header.index("Name")].strip() for row in rows}
    if list(names) != [str(number) for number in range(1, NUM_CLASSES + 1)]:
        raise ValueError(
            f"{path}: expected one row per class with Idx 1..{NUM_CLASSES}, got {len(rows)} rows; "
            "use the official file"
        )
    if not all(names.values()):
        raise ValueError(f"{path}: a class has no name; use the official file")
    return list(names.values())


def _id_table() -> np.ndarray:
    table = np.full(NUM_CLASSES + 1, IGNORE_LABEL, np.int16)
    table[1:] = np.arange(NUM_CLASSES)
    return table

"""CamVid in the layout of the SegNet tutorial: one list of `image annotation` lines per split.

Brostow et al. 2009; 11 classes and the palette of Badrinarayanan et al. 2017, SegNet,
arXiv:1511.00561. Masks store 0..10, and 11 for unlabelled (ignored). Photos are frames of four
drives, which the names begin with: `0016E5_07959`.
"""

import pathlib

from deeplab_tf.data.dataset import FileDataset, Sample, identity_ids, read_lines
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet

LABEL_SET = LabelSet(
    names=(
        "sky",
        "building",
        "pole",
        "road",
        "pavement",
        "tree",
        "sign_symbol",
        "fence",
        "car",
        "pedestrian",
        "bicyclist",
    ),
    colors=(
        (128, 128, 128),
        (128, 0, 0),
        (192, 192, 128),
        (128, 64, 128),
        (60, 40, 222),
        (128, 128, 0),
        (192, 128, 128),
        (64, 64, 128),
        (64, 0, 128),
        (64, 64, 0),
        (0, 128, 192),
    ),
)
UNLABELLED = 11


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens the split that `<data_dir>/<split>.txt` lists.

    Args:
        data_dir: folder of the lists; paths in the lists are relative to it.
        split: name of a list.

    Returns:
        The split.

    Raises:
        FileNotFoundError: the list does not exist.
        ValueError: a line is not `image annotation`, or the list is empty.
    """
    listing = data_dir / f"{split}.txt"
    if not listing.is_file():
        raise FileNotFoundError(
            f"{listing}: no such list; CamVid needs `image annotation` lines in "
            "<data_dir>/<split>.txt"
        )
    samples = []
    for number, line in enumerate(read_lines(listing), 1):
        if not line.strip():
            continue
        fields = line.split()
        if len(fields) != 2:
            raise ValueError(f"{listing}:{number}: expected `image annotation`, got {line!r}")
        image, label = fields
        drive, underscore, _ = pathlib.PurePath(image).stem.partition("_")
        samples.append(Sample(image, label, group=drive if underscore else ""))
    table = identity_ids(LABEL_SET.num_classes)
    table[UNLABELLED] = IGNORE_LABEL
    return FileDataset(
        "camvid",
        split,
        label_set=LABEL_SET,
        data_dir=data_dir,
        samples=tuple(samples),
        id_table=table,
    )

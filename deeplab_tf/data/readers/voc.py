"""PASCAL VOC 2012 segmentation in the layout of the development kit.

Everingham et al. 2015, The PASCAL Visual Object Classes Challenge: A Retrospective. Masks are
palette PNGs whose indices are the classes; 255 (the contour of each object) is ignored.
"""

import pathlib

from deeplab_tf.data.dataset import FileDataset, Sample, identity_ids, read_stems
from deeplab_tf.data.labels import LabelSet

LABEL_SET = LabelSet.from_names(
    (
        "background",
        "aeroplane",
        "bicycle",
        "bird",
        "boat",
        "bottle",
        "bus",
        "car",
        "cat",
        "chair",
        "cow",
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    )
)
_LISTS = pathlib.Path("ImageSets", "Segmentation")


def open_split(data_dir: pathlib.Path, split: str) -> FileDataset:
    """Opens the split of `ImageSets/Segmentation/<split>.txt`.

    Images are in `JPEGImages`, masks in `SegmentationClass`.

    Args:
        data_dir: VOC2012, VOCdevkit, or the folder that contains VOCdevkit.
        split: name of a list, for example train, val or trainval.

    Returns:
        The split.

    Raises:
        FileNotFoundError: no such layout or list.
        ValueError: a line of the list is not one name, or the list is empty.
    """
    root = _find_root(data_dir)
    samples = tuple(
        Sample(f"JPEGImages/{stem}.jpg", f"SegmentationClass/{stem}.png", group=stem)
        for stem in read_stems(root / _LISTS / f"{split}.txt")
    )
    return FileDataset(
        "voc",
        split,
        label_set=LABEL_SET,
        data_dir=root,
        samples=samples,
        id_table=identity_ids(LABEL_SET.num_classes),
    )


def _find_root(data_dir: pathlib.Path) -> pathlib.Path:
    for root in (data_dir / "VOCdevkit" / "VOC2012", data_dir / "VOC2012", data_dir):
        if (root / _LISTS).is_dir():
            return root
    raise FileNotFoundError(
        f"{data_dir}: no VOC2012/{_LISTS.as_posix()} in it; give the folder that contains VOCdevkit"
    )

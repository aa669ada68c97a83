"""Walks a whole split before a training does: every fault, class frequencies, sizes.

python -m deeplab_tf.data.check --dataset=camvid --data_dir=DIR --split=train
"""

import collections
import dataclasses
import sys

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf import command
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.registry import DATASETS, open_dataset

FLAGS = flags.FLAGS
_NAME_WIDTH = 40  # ADE20K's names list all synonyms, up to 100 letters


@dataclasses.dataclass(frozen=True)
class Findings:
    """What a walk over a split found.

    Attributes:
        label_set: the classes.
        num_samples: samples in the list, with and without faults.
        faults: one line each.
        pixels: int64 [num_classes], pixels of each class in all masks that could be read.
        holders: int64 [num_classes], masks that hold the class.
        ignored: pixels that are ignored.
        sizes: how many photos have each (height, width).
    """

    label_set: LabelSet
    num_samples: int
    faults: tuple[str, ...]
    pixels: np.ndarray
    holders: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]


def check(dataset: SegmentationDataset, progress: bool = False) -> Findings:
    """Reads every photo and mask of a split; a fault does not end the walk.

    Faults are files that are missing or do not decode, masks with unknown ids, and masks whose
    size is not their photo's; and photos with an EXIF orientation, which masks do not have.

    Args:
        dataset: the split.
        progress: shows a bar on stderr if that is a terminal.
    """
    counts = np.zeros(256, np.int64)
    holders = np.zeros(256, np.int64)
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    faults: list[str] = []
    indices = range(len(dataset))
    for index in tqdm(
        indices, unit=" samples", file=sys.stderr, disable=None if progress else True
    ):
        image = _attempt(dataset.image, index, faults=faults)
        label = _attempt(dataset.label, index, faults=faults)
        if image is not None:
            sizes[image.shape[:2]] += 1
            faults += dataset.notes(index)
        if label is not None:
            histogram = np.bincount(label.ravel(), minlength=256)
            counts += histogram
            holders += histogram > 0
        if image is not None and label is not None and image.shape[:2] != label.shape:
            faults.append(
                f"{dataset.sample_name(index)}: the mask is {label.shape[1]}x{label.shape[0]}, "
                f"its photo {image.shape[1]}x{image.shape[0]}; both must have one size"
            )
    num_classes = dataset.label_set.num_classes
    return Findings(
        dataset.label_set,
        len(dataset),
        faults=tuple(faults),
        pixels=counts[:num_classes],
        holders=holders[:num_classes],
        ignored=int(counts[IGNORE_LABEL]),
        sizes=dict(sizes),
    )


def _attempt(read, index: int, *, faults: list[str]):
    try:
        return read(index)
    except (ValueError, OSError) as error:
        faults.append(" ".join(str(error).split()))
        return None


def report(findings: Findings) -> str:
    """The findings as text: a table of classes, sizes, then faults and how many they are."""
    labelled = int(findings.pixels.sum())
    names = [name[:_NAME_WIDTH] for name in findings.label_set.names]
    width = max(len(name) for name in (*names, "(ignored)"))
    lines = [f"{'class':<{width}} {'pixels':>14} {'share':>8} {'images':>8}"]
    rows = zip(names, findings.pixels, findings.holders, strict=True)
    for name, pixels, holders in rows:
        share = pixels / labelled if labelled else 0.0
        never = "" if holders else "  never seen"
        lines.append(f"{name:<{width}} {pixels:>14} {share:>8.3%} {holders:>8}{never}")
    lines.append(f"{'(ignored)':<{width}} {findings.ignored:>14}")
    lines.append(f"samples: {findings.num_samples}")
    ordered = sorted(findings.sizes.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"size {size[1]}x{size[0]}: {count} photos" for size, count in ordered[:10]]
    if len(ordered) > 10:
        rest = sum(count for _, count in ordered[10:])
        lines.append(f"{len(ordered) - 10} more sizes: {rest} photos")
    lines += [f"fault: {fault}" for fault in findings.faults]
    lines.append(f"faults: {len(findings.faults)}")
    return "\n".join(lines) + "\n"


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_list("split", "train,val", "Lists to walk.")


def main() -> int:
    faults = 0
    splits = [split for split in FLAGS.split if split]
    if not splits:
        raise ValueError("no --split given; name lists such as train,val")
    for split in splits:
        dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=split)
        findings = check(dataset, progress=True)
        sys.stdout.write(f"{dataset.name}, split {split}\n{report(findings)}")
        faults += len(findings.faults)
    return 1 if faults else 0


def console() -> None:
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Checks a whole split before training: all faults, class frequencies and image sizes.

python -m deeplab_tf.data.check --dataset=camvid --data_dir=DIR --split=train
"""

import collections
import dataclasses
import sys
from collections.abc import Callable

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
    """Result of checking a split.

    Attributes:
        label_set: the classes.
        num_samples: number of samples in the list, with and without faults.
        faults: one line per fault.
        pixels: int64 [num_classes], pixels of each class in all readable masks.
        masks_with_class: int64 [num_classes], number of masks that contain the class.
        ignored: number of ignored pixels.
        sizes: number of images of each (height, width).
    """

    label_set: LabelSet
    num_samples: int
    faults: tuple[str, ...]
    pixels: np.ndarray
    masks_with_class: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]


def check(dataset: SegmentationDataset, progress: bool = False) -> Findings:
    """Reads every image and mask of a split and collects all faults.

    Faults are missing or undecodable files, masks with unknown class ids, masks whose size differs
    from that of their image, and images with an EXIF orientation, which masks do not have.

    Args:
        dataset: the split.
        progress: whether to show a progress bar on stderr if that is a terminal.

    Returns:
        The faults and the statistics of the readable samples.
    """
    counts = np.zeros(256, np.int64)
    masks_with_class = np.zeros(256, np.int64)
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
            masks_with_class += histogram > 0
        if image is not None and label is not None and image.shape[:2] != label.shape:
            faults.append(
                f"{dataset.sample_name(index)}: the mask is {label.shape[1]}x{label.shape[0]}, "
                f"its image {image.shape[1]}x{image.shape[0]}; both must have the same size"
            )
    num_classes = dataset.label_set.num_classes
    return Findings(
        dataset.label_set,
        len(dataset),
        faults=tuple(faults),
        pixels=counts[:num_classes],
        masks_with_class=masks_with_class[:num_classes],
        ignored=int(counts[IGNORE_LABEL]),
        sizes=dict(sizes),
    )


def _attempt(
    read: Callable[[int], np.ndarray], index: int, *, faults: list[str]
) -> np.ndarray | None:
    """Returns read(index), or None after adding its error to `faults`."""
    try:
        return read(index)
    except (ValueError, OSError) as error:
        faults.append(" ".join(str(error).split()))
        return None


def report(findings: Findings) -> str:
    """Formats the findings: a table of classes, the image sizes, the faults and their number."""
    labelled = int(findings.pixels.sum())
    names = [name[:_NAME_WIDTH] for name in findings.label_set.names]
    width = max(len(name) for name in (*names, "(ignored)"))
    lines = [f"{'class':<{width}} {'pixels':>14} {'share':>8} {'images':>8}"]
    rows = zip(names, findings.pixels, findings.masks_with_class, strict=True)
    for name, pixels, count in rows:
        share = pixels / labelled if labelled else 0.0
        absent = "" if count else "  never seen"
        lines.append(f"{name:<{width}} {pixels:>14} {share:>8.3%} {count:>8}{absent}")
    lines.append(f"{'(ignored)':<{width}} {findings.ignored:>14}")
    lines.append(f"samples: {findings.num_samples}")
    ordered = sorted(findings.sizes.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"size {size[1]}x{size[0]}: {count} images" for size, count in ordered[:10]]
    if len(ordered) > 10:
        rest = sum(count for _, count in ordered[10:])
        lines.append(f"{len(ordered) - 10} more sizes: {rest} images")
    lines += [f"fault: {fault}" for fault in findings.faults]
    lines.append(f"faults: {len(findings.faults)}")
    return "\n".join(lines) + "\n"


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_list("split", "train,val", "Splits to check, comma-separated.")


def main() -> int:
    """Checks the splits that the flags name; returns 1 if there are faults."""
    faults = 0
    splits = [split for split in FLAGS.split if split]
    if not splits:
        raise ValueError("expected at least one split; give, for example, --split=train,val")
    for split in splits:
        dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=split)
        findings = check(dataset, progress=True)
        sys.stdout.write(f"{dataset.name}, split {split}\n{report(findings)}")
        faults += len(findings.faults)
    return 1 if faults else 0


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

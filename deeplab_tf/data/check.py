"""Checks a whole split before training: all faults, class frequencies and image sizes.

python -m deeplab_tf.data.check --dataset=camvid --data_dir=DIR --split=train
"""

import collections
import dataclasses
import enum
import sys
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf import command
from deeplab_tf.data.dataset import SegmentationDataset, UnknownIdError
from deeplab_tf.data.images import ColorMaskError
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.readers.folder import CLASSES_FILE
from deeplab_tf.data.registry import DATASETS, open_dataset

FLAGS = flags.FLAGS
EXAMPLES = 3
"""Number of faults of one kind that are shown."""
_NAME_WIDTH = 40  # ADE20K's names list all synonyms, up to 100 letters
_CONVERT = "python -m deeplab_tf.data.convert"


class Kind(enum.Enum):
    """What is wrong; the value is the line of the report, after the number of faults."""

    MISSING = "files are missing"
    UNREADABLE = "files cannot be read"
    COLORS = "masks store colours, not class ids"
    IDS = "masks hold ids that no class has"
    SIZE = "masks do not have the size of their image"
    TURNED = "masks are turned by 90 degrees against their image"
    ORIENTATION = "images have an EXIF orientation, which their masks lack"
    ONE_CLASS = "split has only one class"


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        kind: what is wrong.
        text: one line that names the file.
    """

    kind: Kind
    text: str


@dataclasses.dataclass(frozen=True)
class Findings:
    """Result of checking a split.

    Attributes:
        label_set: the classes.
        num_samples: number of samples in the list, with and without faults.
        faults: in the order of the samples.
        cures: what to do about each kind of fault that occurs.
        pixels: int64 [num_classes], pixels of each class in all readable masks.
        masks_with_class: int64 [num_classes], number of masks that contain the class.
        ignored: number of ignored pixels.
        sizes: number of images of each (height, width).
    """

    label_set: LabelSet
    num_samples: int
    faults: tuple[Fault, ...]
    cures: dict[Kind, str]
    pixels: np.ndarray
    masks_with_class: np.ndarray
    ignored: int
    sizes: dict[tuple[int, int], int]


def check(dataset: SegmentationDataset, progress: bool = False) -> Findings:
    """Reads every image and mask of a split and collects all faults.

    Faults are missing or undecodable files, masks with unknown class ids, masks whose size differs
    from that of their image, images with an EXIF orientation, which masks do not have, and a split
    whose labelled pixels are all of one class.

    Args:
        dataset: the split.
        progress: whether to show a progress bar on stderr if that is a terminal.

    Returns:
        The faults and the statistics of the readable samples.
    """
    counts = np.zeros(256, np.int64)
    masks_with_class = np.zeros(256, np.int64)
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    faults: list[Fault] = []
    stored: set[int] = set()
    indices = range(len(dataset))
    for index in tqdm(
        indices, unit=" samples", file=sys.stderr, disable=None if progress else True
    ):
        image = _attempt(dataset.image, index, faults=faults, stored=stored)
        label = _attempt(dataset.label, index, faults=faults, stored=stored)
        if image is not None:
            sizes[image.shape[:2]] += 1
            faults += [Fault(Kind.ORIENTATION, note) for note in dataset.notes(index)]
        if label is not None:
            histogram = np.bincount(label.ravel(), minlength=256)
            counts += histogram
            masks_with_class += histogram > 0
        if image is not None and label is not None and image.shape[:2] != label.shape:
            turned = image.shape[:2] == label.shape[::-1]
            text = (
                f"{dataset.sample_name(index)}: the mask is {label.shape[1]}x{label.shape[0]}, "
                f"its image {image.shape[1]}x{image.shape[0]}; both must have the same size"
            )
            faults.append(Fault(Kind.TURNED if turned else Kind.SIZE, text))
    stored |= set(np.flatnonzero(counts).tolist())
    num_classes = dataset.label_set.num_classes
    if num_classes > 1 and not any(fault.kind in (Kind.IDS, Kind.COLORS) for fault in faults):
        faults += _one_class(dataset, counts)
    return Findings(
        dataset.label_set,
        len(dataset),
        faults=tuple(faults),
        cures=_cures(dataset, faults, stored=stored),
        pixels=counts[:num_classes],
        masks_with_class=masks_with_class[:num_classes],
        ignored=int(counts[IGNORE_LABEL]),
        sizes=dict(sizes),
    )


def _attempt(
    read: Callable[[int], np.ndarray], index: int, *, faults: list[Fault], stored: set[int]
) -> np.ndarray | None:
    """Returns read(index), or None after adding its error to `faults` and its ids to `stored`."""
    try:
        return read(index)
    except (ValueError, OSError) as error:
        kind = Kind.UNREADABLE
        if isinstance(error, UnknownIdError):
            kind = Kind.IDS
            stored |= error.ids
        elif isinstance(error, ColorMaskError):
            kind = Kind.COLORS
        elif isinstance(error, FileNotFoundError):
            kind = Kind.MISSING
        faults.append(Fault(kind, " ".join(str(error).split())))
        return None


def _one_class(dataset: SegmentationDataset, counts: np.ndarray) -> list[Fault]:
    seen = np.flatnonzero(counts[: dataset.label_set.num_classes])
    if len(seen) != 1:
        return []
    name = dataset.label_set.names[seen[0]]
    text = f"every labelled pixel is class {seen[0]} {name!r}"
    if counts[IGNORE_LABEL]:
        text += f", all others are {IGNORE_LABEL}, which means ignored"
    return [Fault(Kind.ONE_CLASS, text)]


def _cures(
    dataset: SegmentationDataset, faults: Sequence[Fault], *, stored: set[int]
) -> dict[Kind, str]:
    """Says what to do about each kind of fault."""
    where = getattr(dataset, "data_dir", "DIR")
    command_line = f"`{_CONVERT} --from={{}} --input={where} --output=NEW_FOLDER`"
    binary = command_line.format("binary")
    one_class = "label a second class; a network of one class learns nothing"
    if stored == {0, IGNORE_LABEL}:
        names = f" --classes={where}/{CLASSES_FILE}" if dataset.label_set.num_classes == 2 else ""
        one_class = (
            f"{IGNORE_LABEL} means ignored; is it your class? remap it to 1: "
            f"{binary.removesuffix('`')}{names}`"
        )
    cures = {
        Kind.MISSING: "put the files there, or remove the lines from the list",
        Kind.UNREADABLE: "replace the files, or remove them",
        Kind.COLORS: f"give every colour a class id: {command_line.format('color_masks')}",
        Kind.IDS: _cure_of_ids(dataset.label_set, stored, binary=binary),
        Kind.SIZE: "resize masks to the size of their image with nearest neighbour "
        "(Pillow: mask.resize(size, Image.Resampling.NEAREST))",
        Kind.TURNED: "an EXIF orientation was applied to one of the two; turn the other one too",
        Kind.ORIENTATION: "store the images upright (Pillow: ImageOps.exif_transpose), or remove "
        "only the tag if the masks fit the stored pixels",
        Kind.ONE_CLASS: one_class,
    }
    present = {fault.kind for fault in faults}
    return {kind: cure for kind, cure in cures.items() if kind in present}


def _cure_of_ids(label_set: LabelSet, stored: set[int], *, binary: str) -> str:
    ids = sorted(stored - {IGNORE_LABEL})
    count = label_set.num_classes
    unknown = [value for value in ids if value >= count]
    if not unknown:
        return "correct the masks or the class list"
    if ids[0] == 1 and ids[-1] == count:
        return (
            f"ids are 1 to {count}: subtract one in every mask (255 stays), or begin the class "
            "list with a line for id 0"
        )
    if len(unknown) > max(count, 16):
        return (
            f"{len(ids)} different values are no class ids: they come from smooth resizing, soft "
            "edges or JPEG; make the masks again, resize them with nearest neighbour and save them "
            f"as PNG; masks of one object: {binary} --snap_colors"
        )
    shown = ", ".join(map(str, unknown[:8])) + (" ..." if len(unknown) > 8 else "")
    return (
        f"the list names ids 0 to {count - 1}, the masks also hold {shown}: add the missing lines, "
        f"remap the ids, or store {IGNORE_LABEL} where they mean ignored"
    )


def report(findings: Findings, examples: int = EXAMPLES) -> str:
    """Formats the findings: a table of classes, the image sizes, the faults and their number.

    Args:
        findings: of a split.
        examples: number of faults of one kind that are shown.
    """
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
    for kind in Kind:
        lines += _lines_of(kind, findings, examples=examples)
    lines.append(f"faults: {len(findings.faults)}")
    return "\n".join(lines) + "\n"


def _lines_of(kind: Kind, findings: Findings, *, examples: int) -> list[str]:
    texts = [fault.text for fault in findings.faults if fault.kind is kind]
    if not texts:
        return []
    lines = [f"fault: {len(texts)} {kind.value}"]
    lines += [f"    {text}" for text in texts[:examples]]
    if len(texts) > examples:
        lines.append(f"    and {len(texts) - examples} more; --examples={len(texts)} shows all")
    return [*lines, f"    cure: {findings.cures[kind]}"]


def _define_flags() -> None:
    flags.DEFINE_enum("dataset", None, sorted(DATASETS), "Data set.", required=True)
    flags.DEFINE_string("data_dir", "", "Folder that holds the data set.")
    flags.DEFINE_list("split", "train,val", "Splits to check, comma-separated.")
    flags.DEFINE_integer("examples", EXAMPLES, "Faults of one kind that are shown.", lower_bound=1)


def main() -> int:
    """Checks the splits that the flags name; returns 1 if there are faults."""
    faults = 0
    splits = [split for split in FLAGS.split if split]
    if not splits:
        raise ValueError("expected at least one split; give, for example, --split=train,val")
    for split in splits:
        dataset = open_dataset(FLAGS.dataset, FLAGS.data_dir, split=split)
        findings = check(dataset, progress=True)
        sys.stdout.write(f"{dataset.name}, split {split}\n{report(findings, FLAGS.examples)}")
        faults += len(findings.faults)
    return 1 if faults else 0


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

"""Chooses the photos that a reader should look at, and draws them as data URIs.

For each file and class: the photos with the worst and the best IoU of the class, and those where
the file lost most relative to the reference. A photo is skipped for a class with under 0.1 % of its
labelled pixels, since the IoU of a few pixels is not meaningful, unless no photo has more.
"""

import base64
import collections
import dataclasses
import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import IGNORE_COLOR
from deeplab_tf.data.preprocessing import Placement, place
from deeplab_tf.metrics.overlap import iou_from_counts
from tflite_tools.drawing import palette_image
from tflite_tools.html_report.collect import FileReport, Report
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner

TILE_WIDTH = 400
PHOTOS_PER_LIST = 2
BUDGET_BYTES = 4_000_000
"""Of all data URIs together; the rest of the page stays below 1 MB."""
PRESENT_SHARE = 0.002
"""Of a mask's pixels: classes with fewer are not in its legend."""
SMALLEST_SHARE = 0.001
JPEG_QUALITY = 80
BATCH = 8
"""Photos in memory at once."""

LISTS = {"worst": "worst", "best": "best", "lost": "lost most"}
SAME, LOST, WON, OTHER, IGNORED = range(5)
DIFFERENCE_COLORS = ((0, 0, 0), (230, 40, 40), (40, 190, 80), (240, 200, 40), (128, 128, 128))
"""Of pixels that are equal; correct only in the reference; correct only in the file; wrong in both
in different ways; ignored."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of one list.

    Attributes:
        file: index into `Report.files`.
        label: the class.
        kind: key of LISTS.
        photo: index into the data set.
        iou: of the class on this photo.
        reference_iou: the same of the reference, or None.
    """

    file: int
    label: int
    kind: str
    photo: int
    iou: float
    reference_iou: float | None


def choose(report: Report) -> list[Entry]:
    """Returns all entries, the first of every list before the second of any.

    Args:
        report: the results.
    """
    base = report.base
    files = [
        index
        for index, file in enumerate(report.files)
        if file.overlap is not None and (file is not base or len(report.scored) == 1)
    ]
    lists = [
        _ranked(report, index, label=label, kind=kind)
        for label in range(report.dataset.label_set.num_classes)
        for kind in LISTS
        for index in files
    ]
    ranks = itertools.zip_longest(*lists)
    return [entry for rank in ranks for entry in rank if entry is not None]


def _ranked(report: Report, index: int, *, label: int, kind: str) -> list[Entry]:
    file, base = report.files[index], report.base
    assert file.overlap is not None
    iou = iou_from_counts(file.overlap[:, label])
    reference = None
    if base is not None and base is not file and base.overlap is not None:
        reference = iou_from_counts(base.overlap[:, label])
    score = {"worst": iou, "best": -iou, "lost": iou if reference is None else iou - reference}
    photos = _large_enough(file, label)
    if kind == "lost":
        photos = photos[score["lost"][photos] < 0] if reference is not None else photos[:0]
    order = photos[np.argsort(score[kind][photos], kind="stable")][:PHOTOS_PER_LIST]
    return [
        Entry(
            index,
            label,
            kind=kind,
            photo=int(photo),
            iou=float(iou[photo]),
            reference_iou=None if reference is None else float(reference[photo]),
        )
        for photo in order
    ]


def _large_enough(file: FileReport, label: int) -> np.ndarray:
    """Returns the photos that show a class, those with most of it first."""
    matrices = file.result.image_matrices
    assert matrices is not None
    truth = matrices.sum(2, dtype=np.int64)
    share = truth[:, label] / np.maximum(truth.sum(1), 1)
    order = np.argsort(-share, kind="stable")
    large = order[share[order] >= SMALLEST_SHARE]
    return large if len(large) else order[share[order] > 0]


@dataclasses.dataclass
class Album:
    """The pictures of the page.

    Attributes:
        entries: those whose pictures fit into the budget.
        left_out: number of the others.
        pictures: data URIs by (photo, what): "photo", "truth", ("mask", file),
            ("difference", file).
        present: {photo: {"truth" or file: classes in that mask, those with most pixels first}}.
    """

    entries: list[Entry] = dataclasses.field(default_factory=list)
    left_out: int = 0
    pictures: dict = dataclasses.field(default_factory=dict)
    present: dict = dataclasses.field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Size of all data URIs."""
        return sum(len(uri) for uri in self.pictures.values())


def draw(report: Report, budget_bytes: int = BUDGET_BYTES) -> Album:
    """Draws the chosen photos until the budget is used up, in the order of `choose`.

    Args:
        report: the results.
        budget_bytes: for all data URIs.
    """
    by_photo: dict[int, list[Entry]] = collections.defaultdict(list)
    entries = choose(report)
    for entry in entries:
        by_photo[entry.photo].append(entry)
    album = Album()
    contracts = [file.contract for file in report.files]
    with InterpreterPool(contracts, report.options.processes) as pool:
        photos = list(by_photo)
        for first in range(0, len(photos), BATCH):
            if album.size_bytes >= budget_bytes:
                break
            batch = photos[first : first + BATCH]
            masks = _masks(report, {photo: by_photo[photo] for photo in batch}, pool=pool)
            for photo in batch:
                truth = _small_truth(report, photo)
                drawn = _draw_photo(
                    report, photo, entries=by_photo[photo], masks=masks, truth=truth
                )
                if album.size_bytes + sum(map(len, drawn.values())) > budget_bytes:
                    break
                album.pictures |= drawn
                classes = report.dataset.label_set.num_classes
                album.present[photo] = {"truth": _present(truth, classes)} | {
                    file: _present(mask, classes)
                    for (shown, file), mask in masks.items()
                    if shown == photo
                }
    album.entries = [e for e in entries if (e.photo, ("mask", e.file)) in album.pictures]
    album.left_out = len(entries) - len(album.entries)
    return album


def small_mask(runner: ModelRunner, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Predicts the reduced class map of a photo in a child process.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels].
        size: (height, width) of the result.

    Returns:
        uint8 of that size.
    """
    canvas, placement = place(image, (runner.contract.height, runner.contract.width))
    return _shrink(placement.restore_label(runner.class_map(canvas)), size)


def _masks(report: Report, by_photo: dict[int, list[Entry]], *, pool: InterpreterPool) -> dict:
    """Returns reduced class maps by (photo, file) of the chosen files and the reference."""
    tasks, keys = [], {}
    for photo, entries in by_photo.items():
        image = report.dataset.image(photo)
        files = {entry.file for entry in entries}
        if report.base is not None and report.reference is not None:
            files.add(report.reference)
        for file in sorted(files):
            tasks.append(Task(file, small_mask, arguments=(image, tile_size(image))))
            keys[id(tasks[-1])] = (photo, file)
    return {
        keys[id(outcome.task)]: outcome.value for outcome in pool.run(tasks) if not outcome.failure
    }


def _small_truth(report: Report, photo: int) -> np.ndarray:
    label = report.dataset.label(photo)
    return _shrink(label, tile_size(label))


def _present(mask: np.ndarray, num_classes: int) -> list[int]:
    """Returns the classes of a mask's legend."""
    counts = np.bincount(mask.ravel(), minlength=256)[:num_classes]
    order = np.argsort(-counts, kind="stable")
    return [int(label) for label in order if counts[label] >= PRESENT_SHARE * mask.size]


def _draw_photo(
    report: Report, photo: int, *, entries: list[Entry], masks: dict, truth: np.ndarray
) -> dict:
    """Draws the data URIs of one photo."""
    image = report.dataset.image(photo)
    label_set = report.dataset.label_set
    drawn: dict = {
        (photo, "photo"): _jpeg(image),
        (photo, "truth"): _png(truth, label_set.colors),
    }
    reference = masks.get((photo, report.reference))
    for file in sorted({entry.file for entry in entries}):
        mask = masks.get((photo, file))
        if mask is None:
            continue
        drawn[photo, ("mask", file)] = _png(mask, label_set.colors)
        compared = None if file == report.reference else reference
        marks = differences(truth, mask, reference=compared, num_classes=label_set.num_classes)
        drawn[photo, ("difference", file)] = _png(marks, DIFFERENCE_COLORS, transparent=SAME)
    if reference is not None:
        drawn[photo, ("mask", report.reference)] = _png(reference, label_set.colors)
    return drawn


def differences(
    truth: np.ndarray, mask: np.ndarray, *, reference: np.ndarray | None, num_classes: int
) -> np.ndarray:
    """Marks where a file differs from the reference, and which is correct.

    Args:
        truth: uint8 [height, width], the label.
        mask: uint8 [height, width], the file's prediction.
        reference: uint8 [height, width], the reference's prediction, or None for the label.
        num_classes: of the label.

    Returns:
        uint8 [height, width] of SAME, LOST, WON, OTHER, IGNORED.
    """
    compared = truth if reference is None else reference
    marks = np.full(truth.shape, OTHER, np.uint8)
    marks[compared == truth] = LOST
    marks[mask == truth] = WON
    marks[mask == compared] = SAME
    marks[truth >= num_classes] = IGNORED
    return marks


def tile_size(image: np.ndarray) -> tuple[int, int]:
    """Returns height and width of a photo's tile; photos are only reduced.

    Args:
        image: [height, width, channels].
    """
    height, width = image.shape[:2]
    scale = min(1.0, TILE_WIDTH / width, TILE_WIDTH / height)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _shrink(label: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes by nearest neighbour with half-pixel centres."""
    height, width = label.shape
    return Placement(height, width, *size).restore_label(label)


def _jpeg(image: np.ndarray) -> str:
    """Encodes a photo; one without 3 channels is shown by its first channel."""
    height, width = tile_size(image)
    shown = Image.fromarray(image if image.shape[2] == 3 else image[:, :, 0])
    stream = io.BytesIO()
    shown.resize((width, height), Image.Resampling.BILINEAR).save(
        stream, "JPEG", quality=JPEG_QUALITY
    )
    return _uri("image/jpeg", stream)


def _png(
    classes: np.ndarray, colors: Sequence[Sequence[int]], *, transparent: int | None = None
) -> str:
    """Encodes a palette image; values outside the palette have the colour of ignored pixels."""
    picture = palette_image(classes, colors, other=IGNORE_COLOR)
    stream = io.BytesIO()
    extra = {} if transparent is None else {"transparency": transparent}
    picture.save(stream, "PNG", optimize=True, **extra)
    return _uri("image/png", stream)


def _uri(kind: str, stream: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def names_of(dataset: SegmentationDataset, album: Album) -> dict[int, str]:
    """Returns the sample names of the photos in an album.

    Args:
        dataset: the list.
        album: pictures to show.
    """
    return {entry.photo: dataset.sample_name(entry.photo) for entry in album.entries}

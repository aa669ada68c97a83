"""Writes converted labels as the folder layout: photos, masks, classes, lists, groups.

Everything is written into a temporary folder beside the output and moved when it is complete.
"""

import collections
import contextlib
import dataclasses
import json
import pathlib
import re
import shutil
import sys
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from tqdm import tqdm

from deeplab_tf.data.convert.numbering import Numbering
from deeplab_tf.data.convert.photos import (
    Header,
    Orientation,
    labelled_upright,
    open_picture,
    read_header,
    turn,
    turn_label,
)
from deeplab_tf.data.convert.rasterizer import (
    Outcome,
    draw_mask,
    draw_regions,
    is_on_whole_pixels,
    leaves_picture,
    place_fault,
)
from deeplab_tf.data.convert.regions import Annotations, Findings, Overlaps, Photo, Polygon
from deeplab_tf.data.labels import IGNORE_COLOR, IGNORE_LABEL, LabelSet
from deeplab_tf.data.readers.folder import (
    CLASSES_FILE,
    GROUPS_FILE,
    IMAGE_ENDINGS,
    open_split,
)
from deeplab_tf.scratch import partial_folder

RECORD_FILE = "conversion.json"
MANY = 10
"""From so many polygons on, whole numbers alone are no chance."""
_JPEG_QUALITY = 95


@dataclasses.dataclass(frozen=True)
class Settings:
    """How labels become masks.

    Attributes:
        overlaps: rule for pixels that several regions cover; None: the format's.
        orientation: which picture was labelled, where a photo has an EXIF orientation.
    """

    overlaps: Overlaps | None = None
    orientation: Orientation = Orientation.AUTO


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A photo that passed the checks.

    Attributes:
        photo: the photo; regions with faults are left out.
        header: of its file.
        upright: whether its labels fit the upright picture.
        stem: its name in the new data set.
    """

    photo: Photo
    header: Header
    upright: bool
    stem: str

    @property
    def label_size(self) -> tuple[int, int]:
        """(height, width) of the picture that the labels fit."""
        return self.header.upright_size if self.upright else self.header.size


@dataclasses.dataclass
class Result:
    """What was written.

    Attributes:
        label_set: the classes.
        pixels: int64 [num_classes], pixels of each class.
        masks_with_class: int64 [num_classes], masks in which it occurs.
        ignored: number of ignored pixels.
        lists: {split: names}.
        groups: {name: group}, empty if they are not known.
        turned: number of photos that were turned upright.
        outcome: counts of overlaps and others.
    """

    label_set: LabelSet
    pixels: np.ndarray
    masks_with_class: np.ndarray
    ignored: int = 0
    lists: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    groups: dict[str, str] = dataclasses.field(default_factory=dict)
    turned: int = 0
    outcome: Outcome = dataclasses.field(default_factory=Outcome)


def prepare(annotations: Annotations, settings: Settings, *, findings: Findings) -> list[Prepared]:
    """Checks every photo and every region before anything is written.

    Args:
        annotations: what the format says.
        settings: how labels become masks.
        findings: gets faults (a photo that cannot be read, labels for another size, regions
            outside the picture) and notes (regions that are cut off at its edge).

    Returns:
        The photos without faults.
    """
    prepared = []
    stems = _stems([photo.name for photo in annotations.photos])
    for photo, stem in zip(annotations.photos, stems, strict=True):
        try:
            header = read_header(photo.source(), photo.name)
            size = photo.size
            if size is None and photo.masks:
                mask = read_header(photo.masks[0].path, str(photo.masks[0].path))
                size = mask.size
            upright = labelled_upright(header, size, name=photo.name, choice=settings.orientation)
        except (ValueError, OSError) as error:
            findings.fault(str(error))
            continue
        one = Prepared(photo, header, upright=upright, stem=stem)
        regions = []
        for region in photo.regions:
            if fault := place_fault(region.shape, one.label_size):
                findings.fault(f"{region.place}: {region.class_name!r} of {photo.name} {fault}")
                continue
            if leaves_picture(region.shape, one.label_size):
                findings.note("regions reach over the edge of their photo: cut off", region.place)
            regions.append(region)
        one = dataclasses.replace(one, photo=dataclasses.replace(photo, regions=tuple(regions)))
        prepared.append(one)
    _note_whole_pixels(prepared, findings)
    return prepared


def _note_whole_pixels(prepared: Sequence[Prepared], findings: Findings) -> None:
    regions = [region for one in prepared for region in one.photo.regions]
    polygons = [region for region in regions if isinstance(region.shape, Polygon)]
    if len(polygons) >= MANY and all(is_on_whole_pixels(one.shape) for one in polygons):
        findings.note(
            "data set has only whole numbers as coordinates; if a program found the outlines in "
            "masks (OpenCV's findContours), give --vertices=pixels, or every region loses its last "
            "row and column",
            polygons[0].place,
        )


def _stems(names: Sequence[str]) -> list[str]:
    """Names without folders and ending where that is unique, else with folders; no blanks."""
    short = [re.sub(r"\s", "_", pathlib.PurePosixPath(name).stem) for name in names]
    long = [
        re.sub(r"\s", "_", pathlib.PurePosixPath(name).with_suffix("").as_posix().replace("/", "_"))
        for name in names
    ]
    counts = collections.Counter(short)
    chosen = [b if counts[a] > 1 else a for a, b in zip(short, long, strict=True)]
    taken: dict[str, str] = {}
    for stem, name in zip(chosen, names, strict=True):
        if stem in taken:
            raise ValueError(
                f"{taken[stem]} and {name} would both be named {stem}; rename one of the photos"
            )
        taken[stem] = name
    return chosen


@contextlib.contextmanager
def new_folder(output: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a temporary folder that becomes `output` if the block ends without error.

    Raises:
        FileExistsError: the output is there and not an empty folder.
        FileNotFoundError: the folder that would hold it is not there.
    """
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise FileExistsError(f"{output}: exists and is not empty; give a new folder as --output")
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(
            f"{output.absolute().parent}: no such folder; create it, or correct --output"
        )
    with partial_folder(output) as staging:
        yield staging


def write(
    prepared: Sequence[Prepared],
    folder: pathlib.Path,
    *,
    numbering: Numbering,
    overlaps: Overlaps,
    lists: dict[str, list[str]],
    groups: dict[str, str],
    findings: Findings,
    progress: bool = False,
) -> Result:
    """Writes the data set into an empty folder and opens every list as training would.

    Args:
        prepared: the photos.
        folder: the empty folder.
        numbering: ids of the classes.
        overlaps: rule for pixels that several regions cover.
        lists: {split: names of its photos}.
        groups: {name: group}, empty if they are not known.
        findings: gets masks and regions that cannot be decoded.
        progress: whether to show a progress bar on stderr if that is a terminal.

    Returns:
        What was written.

    Raises:
        ValueError: a fault, unless faulty ones are to be left out.
    """
    count = numbering.label_set.num_classes
    result = Result(numbering.label_set, np.zeros(count, np.int64), np.zeros(count, np.int64))
    for name in ("images", "labels"):
        (folder / name).mkdir()
    written = set()
    for one in tqdm(prepared, unit=" photos", file=sys.stderr, disable=None if progress else True):
        try:
            label = _label_of(
                one, numbering, overlaps=overlaps, outcome=result.outcome, findings=findings
            )
        except (ValueError, OSError) as error:
            findings.fault(str(error))
            label = None
        findings.settle()
        if label is None:
            continue
        _write_photo(one, folder / "images", result=result)
        _save_mask(label, folder / "labels" / f"{one.stem}.png", label_set=numbering.label_set)
        histogram = np.bincount(label.ravel(), minlength=256)
        result.pixels += histogram[:count]
        result.masks_with_class += histogram[:count] > 0
        result.ignored += int(histogram[IGNORE_LABEL])
        written.add(one.stem)
    result.lists = {
        split: kept
        for split, names in lists.items()
        if (kept := [name for name in names if name in written])
    }
    result.groups = {name: group for name, group in groups.items() if name in written}
    _write_texts(result, folder)
    for split in result.lists:
        open_split(folder, split)
    return result


def _label_of(
    one: Prepared,
    numbering: Numbering,
    *,
    overlaps: Overlaps,
    outcome: Outcome,
    findings: Findings,
) -> np.ndarray:
    label = np.full(one.label_size, numbering.unlabelled, np.uint8)
    for mask in one.photo.masks:
        draw_mask(mask, label, ids=numbering.ids, outcome=outcome)
    for fault in draw_regions(
        one.photo.regions, label, ids=numbering.ids, overlaps=overlaps, outcome=outcome
    ):
        findings.fault(fault)
    return label if one.upright else turn_label(label, one.header.orientation)


def _write_photo(one: Prepared, folder: pathlib.Path, *, result: Result) -> None:
    """Copies the file as it is, or writes the upright picture where it has to be turned."""
    source = one.photo.source()
    suffix = one.header.suffix
    if one.header.is_upright and suffix in IMAGE_ENDINGS:
        path = folder / f"{one.stem}{suffix}"
        if isinstance(source, bytes):
            path.write_bytes(source)
        else:
            shutil.copyfile(source, path)
        return
    result.turned += not one.header.is_upright
    with open_picture(source, one.photo.name) as picture:
        upright = turn(picture, one.header.orientation)
        if suffix == ".jpg":
            upright.convert("RGB").save(
                folder / f"{one.stem}.jpg", quality=_JPEG_QUALITY, subsampling=0, exif=b""
            )
        else:
            upright.save(folder / f"{one.stem}.png", exif=b"")


def _save_mask(label: np.ndarray, path: pathlib.Path, *, label_set: LabelSet) -> None:
    """Writes class ids as palette indices: viewers show the colours."""
    picture = Image.frombytes("P", label.shape[::-1], label.tobytes())
    palette = np.tile(np.array(IGNORE_COLOR, np.uint8), (256, 1))
    palette[: label_set.num_classes] = label_set.colors
    picture.putpalette(palette.ravel().tolist())
    picture.save(path)


def _write_texts(result: Result, folder: pathlib.Path) -> None:
    rows = zip(result.label_set.names, result.label_set.colors, strict=True)
    lines = [f"{name} {' '.join(map(str, color))}\n" for name, color in rows]
    (folder / CLASSES_FILE).write_text("".join(lines), encoding="utf-8")
    for split, names in result.lists.items():
        (folder / f"{split}.txt").write_text(
            "".join(f"{name}\n" for name in names), encoding="utf-8"
        )
    if result.groups:
        text = "".join(f"{name} {group}\n" for name, group in sorted(result.groups.items()))
        (folder / GROUPS_FILE).write_text(text, encoding="utf-8")


def write_record(record: dict, folder: pathlib.Path) -> None:
    """Writes how the data set was made."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    (folder / RECORD_FILE).write_text(text + "\n", encoding="utf-8")

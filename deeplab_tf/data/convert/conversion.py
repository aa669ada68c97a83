"""From labels as people have them to a folder that trains: read, check, number, divide, write."""

import dataclasses
import pathlib

from absl import logging

from deeplab_tf.data.convert.formats import FORMATS, recognize
from deeplab_tf.data.convert.numbering import divide, groups_of, number_classes
from deeplab_tf.data.convert.photos import Orientation
from deeplab_tf.data.convert.regions import (
    BACKGROUND,
    BACKGROUND_NAMES,
    IGNORED_NAME,
    Findings,
    Overlaps,
    Vertices,
)
from deeplab_tf.data.convert.source import Source
from deeplab_tf.data.convert.writer import (
    Result,
    Settings,
    new_folder,
    prepare,
    write,
    write_record,
)
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.readers.folder import read_classes


@dataclasses.dataclass(frozen=True)
class Request:
    """What to convert, and how.

    Attributes:
        input: folder or file of the labels.
        output: new folder.
        format: key of `FORMATS`, "" to recognize it.
        images: folder of the photos, None if they are below `input`.
        masks: folder of mask pictures, None if they are below `input`.
        classes: file of class names (and colours) in the wanted order, or None.
        ignored_classes: classes whose pixels are ignored (255).
        unlabelled_ignored: whether pixels that nothing labels are ignored instead of background.
        overlaps: rule for pixels that several regions cover; None: the format's.
        vertices: what coordinates of outlines mean; None: what they mean in the format.
        orientation: which picture was labelled, where a photo has an EXIF orientation.
        snap_colors: whether colours without a class become the nearest that has one.
        fill_boxes: whether a box without an outline is filled.
        skip_faulty: whether what is faulty is left out.
        group_by: regular expression for the group of a photo in its path, or "".
        groups: file of lines `name group`, or None.
        validation_share: of the photos that validate.
        divide_again: whether to divide although the format gives splits.
    """

    input: pathlib.Path
    output: pathlib.Path
    format: str = ""
    images: pathlib.Path | None = None
    masks: pathlib.Path | None = None
    classes: pathlib.Path | None = None
    ignored_classes: tuple[str, ...] = ()
    unlabelled_ignored: bool = False
    overlaps: Overlaps | None = None
    vertices: Vertices | None = None
    orientation: Orientation = Orientation.AUTO
    snap_colors: bool = False
    fill_boxes: bool = False
    skip_faulty: bool = False
    group_by: str = ""
    groups: pathlib.Path | None = None
    validation_share: float = 0.2
    divide_again: bool = False


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion that ended well.

    Attributes:
        format: name of the format.
        overlaps: the rule that was applied.
        result: what was written.
        notes: what was left out or changed, and why.
        faults: what was faulty and left out.
    """

    format: str
    overlaps: Overlaps
    result: Result
    notes: tuple[str, ...]
    faults: tuple[str, ...]


def convert(request: Request, progress: bool = False) -> Conversion:
    """Converts labels into the folder layout.

    Args:
        request: what to do.
        progress: whether to show progress on stderr if that is a terminal.

    Returns:
        What was done.

    Raises:
        FileNotFoundError: a file or folder that is named is not there.
        FileExistsError: the output is there already.
        ValueError: labels that contradict the photos or their format; nothing is written.
    """
    if not request.input.exists():
        raise FileNotFoundError(f"{request.input}: no such file or folder; correct --input")
    name = request.format or recognize(request.input) or ""
    if not name:
        raise ValueError(
            f"{request.input}: its format was not recognized; give --from, one of "
            f"{', '.join(sorted(FORMATS))}"
        )
    with new_folder(request.output) as staging:
        conversion = _convert(request, name, staging=staging, progress=progress)
        write_record(_record(request, conversion), staging)
    return conversion


def _convert(request: Request, name: str, *, staging: pathlib.Path, progress: bool) -> Conversion:
    findings = Findings(skip_faulty=request.skip_faulty)
    given = _given_classes(request.classes)
    source = Source(
        request.input,
        findings,
        images=request.images,
        masks=request.masks,
        classes=given,
        snap_colors=request.snap_colors,
        fill_boxes=request.fill_boxes,
        vertices=request.vertices,
        orientation=request.orientation,
    )
    annotations = FORMATS[name].read(source)
    if not annotations.classes:
        findings.settle()
        raise ValueError(f"{request.input}: no labelled region in it; {_reasons(findings)}")
    overlaps = request.overlaps or annotations.overlaps
    numbering = number_classes(
        annotations,
        given=given,
        ignored=request.ignored_classes,
        unlabelled_ignored=request.unlabelled_ignored,
        findings=findings,
    )
    prepared = prepare(
        annotations, Settings(overlaps, orientation=request.orientation), findings=findings
    )
    findings.settle()
    if not any(one.photo.regions or one.photo.masks for one in prepared):
        raise ValueError(
            f"{request.input}: no photo has a region with an area; {_reasons(findings)}"
        )
    paths = {one.stem: one.photo.name for one in prepared}
    groups = groups_of(paths, pattern=request.group_by, listing=request.groups)
    lists = divide(
        {one.stem: one.photo.split for one in prepared},
        groups,
        share=request.validation_share,
        again=request.divide_again,
    )
    result = write(
        prepared,
        staging,
        numbering=numbering,
        overlaps=overlaps,
        lists=lists,
        groups=groups,
        findings=findings,
        progress=progress,
    )
    if findings.faults:
        logging.warning("left out: %d faults, first: %s", len(findings.faults), findings.faults[0])
    return Conversion(
        name,
        overlaps,
        result=result,
        notes=tuple(findings.notes()),
        faults=tuple(findings.faults),
    )


def _reasons(findings: Findings) -> str:
    return "; ".join(findings.notes()) or "its photos have no regions"


def _given_classes(path: pathlib.Path | None) -> LabelSet | None:
    """Reads --classes; LabelMe's two special names are understood."""
    if path is None:
        return None
    read = read_classes(path)
    rows = [
        (BACKGROUND if name.lower() in BACKGROUND_NAMES else name, color)
        for name, color in zip(read.names, read.colors, strict=True)
        if name != IGNORED_NAME
    ]
    return LabelSet(tuple(name for name, _ in rows), tuple(color for _, color in rows))


def _record(request: Request, conversion: Conversion) -> dict:
    result = conversion.result
    return {
        "format": conversion.format,
        "overlaps": conversion.overlaps.value,
        "unlabelled": "ignored" if request.unlabelled_ignored else BACKGROUND,
        "ignored_classes": list(request.ignored_classes),
        "pixels": dict(zip(result.label_set.names, result.pixels.tolist(), strict=True)),
        "ignored_pixels": result.ignored,
        "overlapping_pixels": result.outcome.overlapping,
        "snapped_pixels": result.outcome.snapped,
        "photos_turned_upright": result.turned,
        "photos": {split: len(names) for split, names in result.lists.items()},
        "notes": list(conversion.notes),
        "left_out": list(conversion.faults),
    }


def report(conversion: Conversion, output: pathlib.Path) -> str:
    """Formats what was done: classes, counts, notes, and the next command.

    Args:
        conversion: what was done.
        output: the new folder.
    """
    result = conversion.result
    total = max(int(result.pixels.sum()) + result.ignored, 1)
    width = max(len(name) for name in (*result.label_set.names, "(ignored)"))
    lines = [
        f"{'id':>3} {'class':<{width}} {'colour':<11} {'pixels':>12} {'share':>8} {'photos':>7}"
    ]
    for number, (name, color) in enumerate(
        zip(result.label_set.names, result.label_set.colors, strict=True)
    ):
        pixels, masks = int(result.pixels[number]), int(result.masks_with_class[number])
        shown = " ".join(map(str, color))
        absent = "" if masks else "  occurs nowhere"
        lines.append(
            f"{number:>3} {name:<{width}} {shown:<11} {pixels:>12} {pixels / total:>8.3%} "
            f"{masks:>7}{absent}"
        )
    lines.append(
        f"{IGNORE_LABEL:>3} {'(ignored)':<{width}} {'':<11} {result.ignored:>12} "
        f"{result.ignored / total:>8.3%}"
    )
    lines += [f"{split}: {len(names)} photos" for split, names in result.lists.items()]
    if result.groups:
        lines.append(f"groups: {len(set(result.groups.values()))}; none is in two lists")
    lines += _counts(conversion, total=total)
    lines += [f"note: {note}" for note in conversion.notes]
    lines += [f"left out: {fault}" for fault in conversion.faults[:10]]
    if len(conversion.faults) > 10:
        lines.append(f"left out: {len(conversion.faults) - 10} more, all in conversion.json")
    lines.append(f"next: python -m deeplab_tf.data.check --dataset=folder --data_dir={output}")
    return "\n".join(lines) + "\n"


def _counts(conversion: Conversion, *, total: int) -> list[str]:
    outcome = conversion.result.outcome
    lines = []
    if outcome.overlapping:
        lines.append(
            f"overlaps: {outcome.overlapping} pixels ({outcome.overlapping / total:.3%}) lie in "
            f"regions of several classes; rule: {conversion.overlaps.value}"
        )
    if outcome.snapped:
        lines.append(
            f"snapped: {outcome.snapped} pixels ({outcome.snapped / total:.3%}) got the nearest "
            "colour that has a class"
        )
    if outcome.vanished:
        lines.append(f"vanished: {outcome.vanished} regions are too small to cover a pixel")
    if conversion.result.turned:
        lines.append(f"turned: {conversion.result.turned} photos were written upright")
    return lines

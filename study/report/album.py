"""Images of a study's best and worst cell: where each class is segmented well and where not."""

import dataclasses
import itertools

from study.report.collect import CellReport, StudyReport
from tflite_tools.html_report import pictures
from tflite_tools.html_report.collect import Report

BUDGET_BYTES = 5_000_000
"""Of all pictures of one cell, each counted once."""
_PREFERRED = ("qat_int8", "int8")
"""Variants whose mask is shown next to that of the reference; the first one that exists."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One image for one class.

    Attributes:
        label: name of the class.
        kind: "worst", "best" or "lost most" compared with the reference.
        photo: name of the sample.
        iou: of the class on this image.
        reference_iou: the same of the reference, or None.
        pictures: data URIs: image, truth, mask of the reference, mask of the file.
    """

    label: str
    kind: str
    photo: str
    iou: float
    reference_iou: float | None
    pictures: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CellAlbum:
    """Pictures of one cell.

    Attributes:
        cell: its name.
        file: variant whose mask is shown.
        reference: variant that it is compared with.
        rows: class by class.
        left_out: how many rows did not fit into the budget.
    """

    cell: str
    file: str
    reference: str
    rows: tuple[Row, ...]
    left_out: int

    @property
    def classes(self) -> list[tuple[str, list[Row]]]:
        """The rows of each class, in the data set's order."""
        return [
            (label, list(rows)) for label, rows in itertools.groupby(self.rows, lambda r: r.label)
        ]


def draw_cell(report: StudyReport, cell: CellReport) -> CellAlbum:
    """Runs two files of a cell on the chosen images and draws the masks.

    Args:
        report: of the study.
        cell: the cell.

    Returns:
        its pictures.
    """
    reference = report.scope.variants[0]
    others = [variant for variant in cell.files if variant != reference]
    chosen = next((v for v in _PREFERRED if v in others), others[0] if others else reference)
    variants = list(dict.fromkeys([reference, chosen]))
    scope = report.scope
    files = [cell.files[variant] for variant in variants]
    whole = Report(scope.dataset, scope.options, files=files, reference=0, command=scope.command)
    album = pictures.draw(whole, BUDGET_BYTES)
    names = pictures.names_of(scope.dataset, album)
    first: dict[tuple[int, str], pictures.Entry] = {}
    for entry in album.entries:  # ranked: the first entry of each list comes first
        first.setdefault((entry.label, entry.kind), entry)
    order = sorted(first, key=lambda key: (key[0], list(pictures.LISTS).index(key[1])))
    rows = tuple(_row(whole, first[key], album=album, names=names) for key in order)
    return CellAlbum(cell.name, chosen, reference=reference, rows=rows, left_out=album.left_out)


def _row(whole: Report, entry: pictures.Entry, *, album: pictures.Album, names: dict) -> Row:
    keys = ("photo", "truth", ("mask", 0), ("mask", entry.file))
    shown = tuple(album.pictures.get((entry.photo, key), "") for key in dict.fromkeys(keys))
    return Row(
        whole.dataset.label_set.names[entry.label],
        pictures.LISTS[entry.kind],
        photo=names[entry.photo],
        iou=entry.iou,
        reference_iou=entry.reference_iou,
        pictures=shown,
    )

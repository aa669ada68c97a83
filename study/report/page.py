"""Writes the report of a study: `index.html`, `study_results.json` and `.csv`, and a table."""

import io
import json
import pathlib

import jinja2

from deeplab_tf import atomic_file
from deeplab_tf.metrics.resampling import FEWEST_UNITS
from study.report import charts
from study.report.album import CellAlbum, draw_cell
from study.report.collect import StudyReport
from tflite_tools.html_report import formats
from tflite_tools.html_report import page as report_page
from tflite_tools.json_values import finite
from tflite_tools.text_table import CsvWriter, align

PAGE = "index.html"
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_CELL_COLUMNS = ("state", "failure", "parameters", "train_steps", "train_loss", "train_threads")
_FILE_COLUMNS = (
    *("file", "images", "miou", "miou_low", "miou_high", "classes_counted"),
    *("mean_loss", "pixel_accuracy", "mean_class_accuracy", "agreement", "size_bytes"),
    *("download_bytes", "memory_mb"),
)
_STAGES = ("train", "export", "evaluate")
_ENDS = ("difference", "low", "high")


def write_study(report: StudyReport, folder: pathlib.Path, *, with_photos: bool = True) -> dict:
    """Draws everything first, then writes the three files.

    Args:
        report: of the study.
        folder: where to write.
        with_photos: show images of the best and the worst cell.

    Returns:
        the document.
    """
    document = finite(report.document())
    ranked = report.ranked
    shown = ranked[:1] + ranked[1:][-1:] if with_photos else []
    page = render(document, [draw_cell(report, cell) for cell in shown])
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    atomic_file.write_text(folder / "study_results.json", text)
    atomic_file.write_text(folder / "study_results.csv", study_csv(document))
    atomic_file.write_text(folder / PAGE, page)
    return document


def render(document: dict, albums: list[CellAlbum]) -> str:
    """Renders the page, one HTML text that loads nothing from the network.

    Args:
        document: of the study.
        albums: pictures of cells, the best first.

    Returns:
        the page.
    """
    report_templates = pathlib.Path(report_page.__file__).parent / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([_TEMPLATES, report_templates]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": formats.percent,
        "points": formats.points,
        "interval": formats.interval,
        "verdict": formats.verdict,
        "spaced": spaced,
    }
    cells = document["cells"]
    plots = {"loss": "", "validation": "", "pareto": ""}
    if any(cell["losses"] for cell in cells):
        plots["loss"] = charts.curves(
            document, "losses", label="training loss", factor=1.0, logarithmic=True
        )
    if any(cell["validations"] for cell in cells):
        plots["validation"] = charts.curves(
            document, "validations", label="validation mIoU %", factor=100.0, logarithmic=False
        )
    if any(cell["files"] for cell in cells):
        plots["pareto"] = charts.pareto(document)
    latency = next(
        (f["latency_ms"] for cell in cells for f in cell["files"].values() if f["latency_ms"]), None
    )
    return environment.get_template("study.html.j2").render(
        document=document,
        plots=plots,
        albums=albums,
        latency=latency,
        failed=[cell for cell in cells if cell["state"] == "failed"],
        intervals=", ".join(_units(cells)),
        fewest_units=FEWEST_UNITS,
        ranked=sum(document["variants"][0] in cell["files"] for cell in cells),
        missing=[cell for cell in cells if cell["state"] not in ("failed", "done")],
    )


def _units(cells: list[dict]) -> list[str]:
    """Returns what the intervals of the files rest on, each kind once."""
    files = [file for cell in cells for file in cell["files"].values()]
    return sorted({file["resampled"] for file in files if file["resampled"]})


def study_csv(document: dict) -> str:
    """Formats the document as CSV: one line per file, and one for each cell without files."""
    axes, names = list(document["axes"]), [entry["name"] for entry in document["classes"]]
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.writerow(
        ["cell", *axes, *_CELL_COLUMNS, *(f"{stage}_seconds" for stage in _STAGES), "variant"]
        + [*_FILE_COLUMNS, "latency_ms_minimum", "latency_ms_median", "latency_ms_p90"]
        + [f"{key}_{end}" for key in ("miou_change", "from_best") for end in _ENDS]
        + [f"iou {name}" for name in names]
    )
    for cell in document["cells"]:
        start = [cell["name"], *(cell["choice"][axis] for axis in axes)]
        start += [cell[column] for column in _CELL_COLUMNS]
        start += [cell["seconds"][stage] for stage in _STAGES]
        for variant, file in cell["files"].items() or [("", {})]:
            latency = file.get("latency_ms") or {}
            writer.writerow(
                [*start, variant, *(file.get(column) for column in _FILE_COLUMNS)]
                + [latency.get(key) for key in ("minimum", "median", "p90")]
                + [(file.get(k) or {}).get(e) for k in ("miou_change", "from_best") for e in _ENDS]
                + [file.get("iou", {}).get(name) for name in names]
            )
    return stream.getvalue()


def study_table(document: dict) -> str:
    """Formats the document for the terminal: one line per cell with mIoU and ms per variant."""
    variants = document["variants"]
    header = [("#", ">"), ("cell", "<"), ("state", "<"), ("parameters", ">"), ("train s", ">")]
    header += [
        (f"{v} {what}", ">") for v in variants for what in ("mIoU %", "MB", "download MB", "ms")
    ]
    rows = []
    for cell in document["cells"]:
        seconds = cell["seconds"]["train"]
        row = [str(cell["number"]), cell["name"], cell["state"]]
        row += [spaced(cell["parameters"]), "-" if seconds is None else f"{seconds:.0f}"]
        for variant in variants:
            file = cell["files"].get(variant)
            if file is None:
                row += ["-", "-", "-", "-"]
                continue
            latency = file["latency_ms"]
            row += [f"{100 * file['miou']:.2f}" if file.get("miou") is not None else "-"]
            row += [f"{file['size_bytes'] / 1e6:.2f}"]
            download = file.get("download_bytes")  # results of older versions have none
            row += [f"{download / 1e6:.2f}" if download else "-"]
            row += [f"{latency['median']:.1f}" if latency else "-"]
        rows.append(row)
    notes = [f"{c['name']}: {c['failure']}" for c in document["cells"] if c["failure"]]
    return "\n\n".join([align(header, rows), *(["\n".join(notes)] if notes else [])])


def spaced(value: int | None) -> str:
    """Formats a large integer in groups of three digits; a dash for None."""
    return "–" if value is None else f"{value:,}".replace(",", " ")  # noqa: RUF001 - a dash

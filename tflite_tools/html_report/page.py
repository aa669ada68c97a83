"""Writes the report's files: `index.html`, `metrics.json`, `metrics.csv`, `model_card.md`."""

import io
import json
import os
import pathlib

import jinja2

from deeplab_tf import atomic_file
from deeplab_tf.metrics.resampling import FEWEST_UNITS
from tflite_tools.html_report import charts, pictures, summary
from tflite_tools.html_report.collect import Report
from tflite_tools.html_report.formats import interval, percent, points, verdict
from tflite_tools.html_report.model_card import channels, model_card, uneven
from tflite_tools.text_table import CsvWriter

PAGE = "index.html"
_TEMPLATES = pathlib.Path(__file__).parent / "templates"
_COLUMNS = (
    "model",
    "images",
    "miou",
    "classes_counted",
    "pixel_accuracy",
    "mean_class_accuracy",
    "agreement",
    "boundary_miou",
    "size_bytes",
    "download_bytes",
    "memory_mb",
    "failure",
)


def check_output_dir(output_dir: pathlib.Path, overwrite: bool) -> None:
    """Checks before the work that the report can be written; creates no folder.

    Args:
        output_dir: folder of the report.
        overwrite: whether existing files may be replaced.

    Raises:
        FileExistsError: a file of the report exists and must not be replaced.
        PermissionError: the folder, or its parent, cannot be written to.
    """
    for name in (PAGE, "metrics.json", "metrics.csv", "model_card.md"):
        if not overwrite and (output_dir / name).exists():
            raise FileExistsError(
                f"{output_dir / name} exists; give --overwrite or another --output_dir"
            )
    folder = next(
        parent for parent in (output_dir, *output_dir.absolute().parents) if parent.exists()
    )
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise PermissionError(f"{output_dir} cannot be written to; give another --output_dir")


def write_report(
    report: Report, output_dir: pathlib.Path, *, run_config: dict | None = None
) -> None:
    """Draws everything first, then writes the four files.

    Args:
        report: the results.
        output_dir: folder of the report.
        run_config: configuration of the run that made the files, for the model card, or None.
    """
    document = report.document()
    page = render(document, pictures.draw(report), report=report)
    card = model_card(document, run_config)
    atomic_file.write_text(output_dir / "metrics.json", json.dumps(document, indent=1) + "\n")
    atomic_file.write_text(output_dir / "metrics.csv", metrics_csv(document))
    atomic_file.write_text(output_dir / "model_card.md", card)
    atomic_file.write_text(output_dir / PAGE, page)


def render(document: dict, album: pictures.Album, *, report: Report) -> str:
    """Returns the page, which loads nothing from other hosts.

    Args:
        document: `Report.document()`.
        album: pictures to show.
        report: the results.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.policies["json.dumps_kwargs"] = {}  # keeps the order of the lists
    environment.filters |= {
        "channels": channels,
        "percent": percent,
        "points": points,
        "interval": interval,
        "verdict": verdict,
    }
    names = [entry["name"] for entry in document["classes"]]
    scored = [model for model in document["models"] if model.get("miou") is not None]
    return environment.get_template("report.html.j2").render(
        document=document,
        scored=scored,
        names=names,
        fewest_units=FEWEST_UNITS,
        recommendation=summary.recommendation(document),
        findings=summary.findings(document),
        same_masks=summary.same_masks(document),
        warnings=summary.warnings(document),
        uneven=uneven(document),
        trade_off=charts.trade_off(document) if scored else "",
        class_bars=charts.class_bars(document) if scored else "",
        confusions={model["model"]: charts.confusion(model, names) for model in scored},
        album=album_values(album, report),
        left_out=album.left_out,
        budget_mb=pictures.BUDGET_BYTES // 10**6,
        smallest_share=pictures.SMALLEST_SHARE,
        difference_colors=["rgb({}, {}, {})".format(*c) for c in pictures.DIFFERENCE_COLORS],
    )


def album_values(album: pictures.Album, report: Report) -> dict:
    """Returns the data for the script of the page.

    Args:
        album: pictures to show.
        report: the results.
    """
    photos: dict[int, dict] = {
        photo: {"name": name, "masks": {}, "differences": {}, "present": album.present[photo]}
        for photo, name in pictures.names_of(report.dataset, album).items()
    }
    for (photo, what), uri in album.pictures.items():
        if photo not in photos:
            continue
        if isinstance(what, str):
            photos[photo][what] = uri
        else:
            kind, file = what
            photos[photo]["masks" if kind == "mask" else "differences"][file] = uri
    return {
        "files": [file.name for file in report.files],
        "reference": report.reference if report.base else None,
        "classes": list(report.dataset.label_set.names),
        "colors": ["rgb({}, {}, {})".format(*c) for c in report.dataset.label_set.colors],
        "kinds": pictures.LISTS,
        "entries": [
            [e.file, e.label, e.kind, e.photo, e.iou, e.reference_iou] for e in album.entries
        ],
        "photos": photos,
    }


def metrics_csv(document: dict) -> str:
    """Formats one line per file.

    Args:
        document: `Report.document()`.
    """
    names = [entry["name"] for entry in document["classes"]]
    changes = [f"{key}_{end}" for key in ("miou_change",) for end in ("difference", "low", "high")]
    stream = io.StringIO()
    writer = CsvWriter(stream)
    writer.writerow(
        [*_COLUMNS, "latency_ms_median", "latency_ms_p90", *changes]
        + [f"iou {name}" for name in names]
        + [f"boundary iou {name}" for name in names]
    )
    for model in document["models"]:
        latency, change = model["latency_ms"] or {}, model.get("miou_change") or {}
        writer.writerow(
            [model.get(column) for column in _COLUMNS]
            + [latency.get(key) for key in ("median", "p90")]
            + [change.get(end) for end in ("difference", "low", "high")]
            + [model.get("iou", {}).get(name) for name in names]
            + [model.get("boundary_iou", {}).get(name) for name in names]
        )
    return stream.getvalue()

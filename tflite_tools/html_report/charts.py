"""Draws the plots of a report as SVG text from the report's document."""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

REFERENCE_COLOR = "0.45"
TEXT_AS_IT_IS = matplotlib.rc_context({"text.parse_math": False, "svg.fonttype": "none"})
"""Dollar signs in a name do not start a formula, and text remains searchable text."""
_NUMBERED_CLASSES = 25
"""Confusion matrices of more classes have no numbers, which would not be legible."""
_WIDE = 8
"""An axis is logarithmic if its largest over its smallest value is above this."""


def colors_of(models: list[dict], reference: str | None) -> dict[str, Any]:
    """Returns one colour per file for all plots; the reference is gray.

    Args:
        models: entries of the document.
        reference: name of the reference, or None.
    """
    palette = matplotlib.colormaps["tab10" if len(models) <= 10 else "tab20"]
    others = [model["model"] for model in models if model["model"] != reference]
    chosen: dict[str, Any] = {name: palette(i % palette.N) for i, name in enumerate(others)}
    return chosen | ({reference: REFERENCE_COLOR} if reference else {})


@TEXT_AS_IT_IS
def trade_off(document: dict) -> str:
    """Plots mIoU over latency and over size, with the interval of the change from the reference.

    Args:
        document: `Report.document()`.
    """
    models = [model for model in document["models"] if model.get("miou") is not None]
    timed = [model for model in models if model["latency_ms"]]
    colors = colors_of(document["models"], document["reference"])
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    if timed:
        milliseconds = [model["latency_ms"]["median"] for model in timed]
        _scatter(panels[0], timed, positions=milliseconds, document=document, colors=colors)
        panels[0].set_xlabel("ms of one photo, median (disc: file size)")
    megabytes = [model["size_bytes"] / 1e6 for model in models]
    _scatter(panels[-1], models, positions=megabytes, document=document, colors=colors)
    panels[-1].set_xlabel("file size, MB (10⁶ bytes)")
    panels[0].set_ylabel("mIoU %")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", frameon=False)
    return svg_text(figure, "trade-off")


def interval_ends(model: dict) -> list[float]:
    """Returns the mIoU in percent at both ends of the change's interval; [] if not known.

    They are relative to the file's own mIoU: the change may be over other classes, see
    `changed_over`.

    Args:
        model: entry of the document, with a change.
    """
    change = model["miou_change"]
    if change["low"] is None:
        return []
    return [100 * (model["miou"] + change[end] - change["difference"]) for end in ("low", "high")]


def _scatter(
    axes: Axes,
    models: list[dict],
    *,
    positions: list[float],
    document: dict,
    colors: dict[str, Any],
) -> None:
    base = next((m for m in models if m["model"] == document["reference"]), None)
    largest = max(model["size_bytes"] for model in models)
    for model, position in zip(models, positions, strict=True):
        color, change = colors[model["model"]], model.get("miou_change")
        if base and change:
            ends = interval_ends(model)
            axes.plot([position] * len(ends), ends, color=color, linewidth=2, alpha=0.5)
        area = 30 + 370 * model["size_bytes"] / largest
        axes.scatter(position, 100 * model["miou"], area, color=color, alpha=0.35, linewidths=0)
        axes.plot(position, 100 * model["miou"], "o", color=color, label=model["model"])
    if base:
        axes.axhline(100 * base["miou"], color=REFERENCE_COLOR, linewidth=0.8, linestyle=":")
    if max(positions) > _WIDE * min(positions):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.set_xlim(0, 1.15 * max(positions))
    axes.grid(alpha=0.25)


@TEXT_AS_IT_IS
def class_bars(document: dict) -> str:
    """Plots the IoU of each class, and its change from the reference with the interval.

    Args:
        document: `Report.document()`.
    """
    models = [model for model in document["models"] if "iou" in model]
    changed = [model for model in models if model.get("iou_change")]
    colors = colors_of(document["models"], document["reference"])
    names = [entry["name"] for entry in document["classes"]]
    height = 1.2 + len(names) * (0.16 + 0.1 * len(models))
    figure = Figure(figsize=(12, height), layout="constrained")
    panels = figure.subplots(1, 2 if changed else 1, sharey=True, squeeze=False)[0]
    rows = np.arange(len(names))
    thickness = 0.8 / max(len(models), 1)
    for number, model in enumerate(models):
        where = rows - 0.4 + (number + 0.5) * thickness
        values = [100 * (model["iou"][name] or 0.0) for name in names]
        panels[0].barh(
            where, values, 0.9 * thickness, color=colors[model["model"]], label=model["model"]
        )
        for row, name in zip(where, names, strict=True):
            change = (model.get("iou_change") or {}).get(name)
            if change:
                known = change["low"] is not None
                ends = [100 * change["low"], 100 * change["high"]] if known else []
                panels[-1].plot(
                    ends, [row] * len(ends), color=colors[model["model"]], linewidth=2, alpha=0.5
                )
                panels[-1].plot(
                    100 * change["difference"], row, "o", color=colors[model["model"]], markersize=4
                )
    panels[0].set_yticks(rows, [name[:24] for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    panels[0].set_xlim(0, 100)
    panels[0].set_xlabel("IoU %")
    if changed:
        panels[-1].axvline(0, color=REFERENCE_COLOR, linewidth=0.8)
        panels[-1].set_xlabel(f"change from {document['reference']}, points; line: 95 % interval")
    for axes in panels:
        axes.grid(axis="x", alpha=0.25)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=6, frameon=False)
    return svg_text(figure, "class-bars")


@TEXT_AS_IT_IS
def confusion(model: dict, names: list[str]) -> str:
    """Plots the confusion matrix, each row divided by its sum.

    Args:
        model: entry of the document.
        names: of the classes.
    """
    counts = np.array(model["confusion_matrix"], np.float64)
    totals = counts.sum(1, keepdims=True)
    share = np.divide(counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    columns = list(names)
    if counts[:, -1].any():
        columns.append("no such class")
    else:
        share = share[:, :-1]
    numbered = len(names) <= _NUMBERED_CLASSES
    side = 1.6 + len(names) * (0.36 if numbered else 0.1)
    figure = Figure(figsize=(side + 0.6, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    size = 9 if numbered else 5
    axes.set_xticks(range(len(columns)), [name[:20] for name in columns], rotation=90, size=size)
    axes.set_yticks(range(len(names)), [name[:20] for name in names], size=size)
    axes.set_xlabel("predicted", labelpad=10)
    axes.set_ylabel("truth")
    for row, column in np.argwhere(share >= 0.005) if numbered else ():
        value = share[row, column]
        axes.text(
            column,
            row,
            f"{100 * value:.0f}",
            ha="center",
            va="center",
            size=8,
            color="white" if value > 0.55 else "black",
        )
    return svg_text(figure, f"confusion-{model['model']}")


def svg_text(figure: Figure, salt: str) -> str:
    """Returns the text of an <svg> element.

    Args:
        figure: the plot.
        salt: makes its ids differ from those of other plots.
    """
    stream = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with matplotlib.rc_context({"svg.hashsalt": salt}):
        FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Names of groups, such as "axes_1", occur in every plot; nothing refers to them.
    return re.sub(r' id="[A-Za-z][A-Za-z0-9.]*_\d+"', "", text)

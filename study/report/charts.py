"""The plots of a study as SVG text, drawn from its document."""

import matplotlib
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tflite_tools.html_report.charts import TEXT_AS_IT_IS, svg_text

MARKERS = "osD^vP*X"
_LINES = ("-", (0, (4, 1.5)), (0, (1, 1)))
"""Line styles that distinguish the second and third use of the same colours."""
_MOST_PANELS = 12


def rest_of(cell: dict, axis: str) -> str:
    """Returns the values of a cell on all other axes, as its label in a panel.

    Args:
        cell: entry of the document.
        axis: the axis of the panels.

    Returns:
        the values, or "all".
    """
    return " ".join(value for name, value in cell["choice"].items() if name != axis) or "all"


def axis_of_panels(document: dict) -> str:
    """Chooses the first axis with more than one value, but not too many for panels."""
    for axis, values in document["axes"].items():
        if 1 < len(values) <= _MOST_PANELS:
            return axis
    return next(iter(document["axes"]))


@TEXT_AS_IT_IS
def curves(document: dict, key: str, *, label: str, factor: float, logarithmic: bool) -> str:
    """Draws one panel per value of an axis and one line per cell, the quantized phase thicker.

    Args:
        document: of the study.
        key: "losses" or "validations".
        label: of the vertical axis.
        factor: that values are multiplied by.
        logarithmic: whether the vertical axis is.

    Returns:
        the plot as SVG text.
    """
    cells = [cell for cell in document["cells"] if cell[key]]
    axis = axis_of_panels(document)
    panels = [v for v in document["axes"][axis] if any(c["choice"][axis] == v for c in cells)]
    kinds = list(dict.fromkeys(rest_of(cell, axis) for cell in document["cells"]))
    columns = min(4, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(max(6, 3.4 * columns), 0.8 + 2.7 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    seen: dict[str, Line2D] = {}
    for axes, value in zip(grid.flat, panels, strict=False):
        axes.set_title(f"{axis} {value}", size=10)
        for cell in (cell for cell in cells if cell["choice"][axis] == value):
            kind = rest_of(cell, axis)
            seen[kind] = _draw_curve(axes, cell[key], factor=factor, number=kinds.index(kind))
        axes.grid(alpha=0.25)
        axes.set_xlabel("step")
        if logarithmic:
            axes.set_yscale("log")
            _plain_ticks(axes.yaxis)
    for row in grid:
        row[0].set_ylabel(label)
    figure.legend(
        list(seen.values()), list(seen), loc="outside lower center", ncols=4, frameon=False
    )
    return svg_text(figure, f"study-{key}")


def _draw_curve(axes: Axes, phases: dict, *, factor: float, number: int) -> Line2D:
    palette = matplotlib.colormaps["tab10"]
    style = _LINES[number // palette.N % len(_LINES)]
    line = Line2D([], [])
    for phase, curve in phases.items():
        steps, values = zip(*curve, strict=True)
        (line,) = axes.plot(
            steps,
            [factor * value for value in values],
            color=palette(number % palette.N),
            linestyle=style,
            linewidth=2.4 if phase == "quantized" else 1.1,
            marker="o" if len(steps) < 12 else None,
            markersize=3,
        )
    return line


def front(points: list[tuple[float, float]]) -> list[int]:
    """Finds the Pareto front of points (cost, score): no other point is as cheap and better.

    Args:
        points: (cost, score) each.

    Returns:
        their indices, the cheapest first.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    kept: list[int] = []
    for index in order:
        if not kept or points[index][1] > points[kept[-1]][1]:
            kept.append(index)
    return kept


@TEXT_AS_IT_IS
def pareto(document: dict) -> str:
    """Draws mIoU against time and file size, with the Pareto front as a line.

    Args:
        document: of the study.

    Returns:
        the plot as SVG text.
    """
    files = [
        (cell["number"], variant, file)
        for cell in document["cells"]
        for variant, file in cell["files"].items()
        if file.get("miou") is not None
    ]
    timed = [entry for entry in files if entry[2]["latency_ms"]]
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    panels = figure.subplots(1, 2 if timed else 1, sharey=True, squeeze=False)[0]
    if timed:
        costs = [file["latency_ms"]["median"] for _, _, file in timed]
        _scatter(panels[0], document["variants"], files=timed, costs=costs)
        panels[0].set_xlabel("ms per image, median")
    _scatter(
        panels[-1],
        document["variants"],
        files=files,
        costs=[f["size_bytes"] / 1e6 for _, _, f in files],
    )
    panels[-1].set_xlabel("file size, MB (10⁶ bytes)")
    panels[0].set_ylabel("mIoU %")
    handles, labels = panels[-1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper right", ncols=8, frameon=False)
    return svg_text(figure, "study-pareto")


def _scatter(axes: Axes, variants: list[str], *, files: list, costs: list[float]) -> None:
    palette = matplotlib.colormaps["tab10"]
    points = [(c, 100 * file["miou"]) for c, (_, _, file) in zip(costs, files, strict=True)]
    for number, variant in enumerate(variants):
        chosen = [i for i, entry in enumerate(files) if entry[1] == variant]
        if not chosen:
            continue
        across, up = zip(*(points[i] for i in chosen), strict=True)
        color, marker = palette(number % palette.N), MARKERS[number % len(MARKERS)]
        for i in chosen:
            low, high = files[i][2]["miou_low"], files[i][2]["miou_high"]
            if low is not None:
                axes.plot(
                    [points[i][0]] * 2,
                    [100 * low, 100 * high],
                    color=color,
                    alpha=0.25,
                    linewidth=1,
                )
        axes.plot(across, up, marker, color=color, markersize=6, label=variant)
    best = front(points)
    axes.step(*zip(*(points[i] for i in best), strict=True), where="post", color="0.5", linewidth=1)
    for i in best:
        axes.annotate(
            str(files[i][0]), points[i], xytext=(4, 5), textcoords="offset points", size=9
        )
    if max(costs) > 4 * min(costs):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
    axes.grid(alpha=0.25)


def _plain_ticks(axis: Axis) -> None:
    """Labels a logarithmic axis with plain numbers at 1, 2, 3, 5, 10."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(ticker.NullFormatter())

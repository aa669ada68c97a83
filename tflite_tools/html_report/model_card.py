"""Writes a model card in Markdown from a report's document.

Mitchell et al. 2019, Model Cards for Model Reporting, arXiv:1810.03993: what the files are, what
they were measured on, where they are weak. The licence of the training data and the purpose are
left as lines to fill in.
"""

import html
import pathlib

import jinja2
import markupsafe

from deeplab_tf.terminal import printable

WEAK_IOU = 0.5
"""Classes below it are listed as weak."""
_RUN_KEYS = {
    "dataset": "training data",
    "split": "training list",
    "backbone_weights": "start",
    "init_from": "start from run",
    "train_steps": "steps",
    "quantize_delay_step": "quantization-aware from step",
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "seed": "seed",
}


def model_card(document: dict, run_config: dict | None = None) -> str:
    """Returns the Markdown text.

    Args:
        document: `Report.document()`.
        run_config: `config.json` of the run, or None.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent / "templates"),
        autoescape=False,
        finalize=_plain_text,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "percent": _percent,
        "points": _points,
        "cell": _cell,
        "code": _code,
        "channels": channels,
    }
    scored = [model for model in document["models"] if model.get("miou") is not None]
    return environment.get_template("model_card.md.j2").render(
        document=document,
        scored=scored,
        contracts=_contracts(document["models"]),
        weak=_weak(document, scored),
        uneven=uneven(document),
        run=_run_values(run_config or {}),
    )


def _plain_text(value: object) -> object:
    """Keeps a name from a file from being HTML, a new line or a terminal's command."""
    if not isinstance(value, str) or isinstance(value, markupsafe.Markup):
        return value
    return html.escape(printable(" ".join(value.split(chr(10)))), quote=False)


def _code(text: str) -> markupsafe.Markup:
    """Returns text for a block of code, which it cannot end."""
    return markupsafe.Markup(printable(text).replace("```", "` ` `"))


def uneven(document: dict) -> dict[str, str]:
    """Returns a sentence for each file whose change is not the difference of the two mIoU.

    A class counts for a file if its union is not empty: a file that predicts a class that is in no
    photo counts more classes than the reference.

    Args:
        document: `Report.document()`.
    """
    models = {model["model"]: model for model in document["models"]}
    base = models.get(document["reference"])
    found = {}
    for name, model in models.items():
        over = model.get("changed_over")
        if base is None or over is None:
            continue
        if len(over) < max(base["classes_counted"], model["classes_counted"]):
            found[name] = (
                f"{name}: change over the {len(over)} classes that {base['model']} counts too: "
                f"{', '.join(over)}."
            )
    return found


def _contracts(models: list[dict]) -> list[tuple[list[str], dict]]:
    """Groups files by how they are fed and read, so that equal contracts are listed once."""
    groups: list[tuple[list[str], dict]] = []
    for model in models:
        contract = {"input": model["input"], "output": model["output"]}
        for names, known in groups:
            if known == contract:
                names.append(model["model"])
                break
        else:
            groups.append(([model["model"]], contract))
    return groups


def _weak(document: dict, scored: list[dict]) -> list[tuple[str, float, float]]:
    """Returns name, lowest and highest IoU of classes below WEAK_IOU in every file."""
    found = []
    for entry in document["classes"]:
        values = [model["iou"][entry["name"]] for model in scored]
        values = [value for value in values if value is not None]
        if values and entry["truth_pixels"] and max(values) < WEAK_IOU:
            found.append((entry["name"], min(values), max(values)))
    return found


def _run_values(config: dict) -> list[tuple[str, object]]:
    values = [("network", (config.get("model") or {}).get("network"))]
    values += [(words, config.get(key)) for key, words in _RUN_KEYS.items()]
    return [(words, value) for words, value in values if value not in (None, "")]


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _points(change: dict | None) -> str:
    if not change:
        return "-"
    if change["low"] is None:
        return f"{100 * change['difference']:+.2f} (too few: {change['independent']})"
    return "{:+.2f} [{:+.2f}, {:+.2f}]".format(
        *(100 * change[key] for key in ("difference", "low", "high"))
    )


def channels(values: list[float]) -> str:
    """Formats the values of channels, as one number if all are equal.

    Args:
        values: one per channel.
    """
    shown = [f"{value:g}" for value in values]
    return shown[0] if len(set(shown)) == 1 else f"[{', '.join(shown)}]"


def _cell(value: object) -> str:
    """Escapes text for a row of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")

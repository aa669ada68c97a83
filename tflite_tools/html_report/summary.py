"""What a reader wants to know first: which file to ship, and what each one costs."""

from tflite_tools.html_report.formats import interval, percent, points, verdict
from tflite_tools.html_report.model_card import uneven

_SAME_SIZE = 0.05
"""Share by which two files may differ to be called equally large or fast."""
_SAME_SCORE = 0.001
"""Difference of mIoU up to which a class map is that of the file with logits."""
_CLASS_MAP = "argmax"
_LOGITS = "logits"


def recommendation(document: dict) -> str:
    """Returns one sentence: the file to ship, and why.

    It is the fastest one (the smallest where nothing was timed) among those that the list does not
    show to be below the reference.

    Args:
        document: `Report.document()`.

    Returns:
        The sentence; "" without a reference or another file.
    """
    base = _reference(document)
    others = [m for m in document["models"] if m.get("miou_change") and not m["failure"]]
    if base is None or not others:
        return ""
    if all(model["miou_change"]["too_few"] for model in others):
        count = max(model["miou_change"]["independent"] for model in others)
        return (
            f"Too few independent images ({count}) to choose a file by its accuracy: score more, "
            "from other places and days."
        )
    kept = [model for model in others if verdict(model["miou_change"]) != "worse"]
    if not kept:
        least = max(others, key=lambda model: model["miou_change"]["difference"])
        return (
            f"Every file is below {base['model']}; {least['model']} loses least: "
            f"{interval(least['miou_change'])} points of mIoU, {_cost(least, base)}."
        )
    kept = [model for model in kept if _gains(model, base)]
    if not kept:
        return f"No file is smaller, faster or shown to be better than {base['model']}."
    timed = base["latency_ms"] and all(model["latency_ms"] for model in kept)
    chosen = min(kept, key=lambda m: m["latency_ms"]["median"] if timed else m["size_bytes"])
    change = chosen["miou_change"]
    words = "above it" if verdict(change) == "better" else "no loss is shown"
    return (
        f"Ship {chosen['model']}: {_cost(chosen, base)} than {base['model']}, mIoU "
        f"{percent(chosen['miou'])} %, {words} on this list ({interval(change)} points)."
    )


def same_masks(document: dict) -> dict[str, str]:
    """Returns {file with a class map: file with logits} of those that give the same masks.

    Args:
        document: `Report.document()`.
    """
    scored = [model for model in document["models"] if model.get("miou") is not None]
    with_logits = {
        (model["variant"], model["head"]): model
        for model in scored
        if model["head"] and model["head"].startswith(_LOGITS)
    }
    found = {}
    for model in scored:
        head = model["head"] or ""
        other = with_logits.get((model["variant"], head.replace(_CLASS_MAP, _LOGITS)))
        if not head.startswith(_CLASS_MAP) or not other or model["model"] == document["reference"]:
            continue
        if abs(model["miou"] - other["miou"]) <= _SAME_SCORE:
            found[model["model"]] = other["model"]
    return found


def findings(document: dict) -> list[str]:
    """Returns one sentence per file: accuracy, size and speed relative to the reference.

    A class map of the same masks is named with the file that gives logits.

    Args:
        document: `Report.document()`.
    """
    base, sentences = _reference(document), []
    class_maps, over_others = same_masks(document), uneven(document)
    for model in document["models"]:
        change = model.get("miou_change")
        if base is None or not change or model["model"] in class_maps:
            continue
        words = [f"{model['model']}: {points(change['difference'])} points of mIoU"]
        if model["model"] in over_others:
            words[0] += f" over the {len(model['changed_over'])} classes that both files count"
        if change["too_few"]:
            words.append(
                f"from too few independent images ({change['independent']}) to tell it from chance"
            )
        elif change["low"] <= 0 <= change["high"]:
            words.append("not told from chance by this list")
        words.append(_cost(model, base, joined=", "))
        worst = worst_change(model)
        if worst:
            name, lost = worst
            words.append(f"hurt most: {name} {points(lost['difference'])}")
        same = [name for name, other in class_maps.items() if other == model["model"]]
        ending = f"; the same masks as a class map: {', '.join(same)}." if same else "."
        sentences.append(", ".join(words) + ending)
    return sentences


def worst_change(model: dict) -> tuple[str, dict] | None:
    """Returns the class with the largest significant loss, or None.

    Args:
        model: entry of the document.
    """
    changes = (model.get("iou_change") or {}).items()
    lost = {name: c for name, c in changes if c and verdict(c) == "worse"}
    return min(lost.items(), key=lambda item: item[1]["difference"]) if lost else None


def warnings(document: dict) -> list[tuple[str, list[str]]]:
    """Returns (warning, names of the files that have it), each warning once.

    Args:
        document: `Report.document()`.
    """
    found: dict[str, list[str]] = {}
    for model in document["models"]:
        for warning in model["warnings"]:
            found.setdefault(warning, []).append(model["model"])
    return list(found.items())


def _reference(document: dict) -> dict | None:
    return next((m for m in document["models"] if m["model"] == document["reference"]), None)


def _gains(model: dict, base: dict) -> bool:
    """Whether a file is smaller, faster or shown to be better than the reference."""
    gain = 1 + _SAME_SIZE
    timed = base["latency_ms"] and model["latency_ms"]
    return (
        verdict(model["miou_change"]) == "better"
        or base["size_bytes"] > gain * model["size_bytes"]
        or bool(timed and base["latency_ms"]["median"] > gain * model["latency_ms"]["median"])
    )


def _cost(model: dict, base: dict, joined: str = " and ") -> str:
    """Returns size and speed in words: "3.6 times smaller and 2.1 times faster"."""
    words = [_times(base["size_bytes"] / model["size_bytes"], ("smaller", "larger"))]
    if base["latency_ms"] and model["latency_ms"]:
        ratio = base["latency_ms"]["median"] / model["latency_ms"]["median"]
        words.append(_times(ratio, ("faster", "slower")))
    return joined.join(words)


def _times(ratio: float, names: tuple[str, str]) -> str:
    if abs(ratio - 1) < _SAME_SIZE:
        return "not " + names[ratio < 1]
    return f"{ratio:.1f} times {names[0]}" if ratio > 1 else f"{1 / ratio:.1f} times {names[1]}"

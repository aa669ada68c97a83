"""Compares a file with its float reference layer by layer, to find where the error begins.

Errors accumulate, so a low signal-to-noise ratio at the end points to no layer; a ratio that falls
between a layer's inputs and its output does.
"""

from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding, problem, warning
from tflite_tools.diagnosis.observation import Observations
from tflite_tools.flatbuffer.graph import Graph

_FALL_DB = 12.0
_LOW_DB = 10.0
_FEW_PAIRS = 0.5
_CEILING_DB = 50.0
"""Better than 8 bits can reach; an exact copy has an infinite ratio."""


def exploding_error(case: Case, seen: Observations) -> list[Finding]:
    """Finds the tensor at which the error grows suddenly."""
    ratios = {
        index: min(statistics.comparison.snr_db, _CEILING_DB)
        for index, statistics in seen.layers.items()
        if statistics.comparison is not None
    }
    found = _few_pairs(seen, len(ratios))
    falls = []
    for operator in case.graph.operators:
        for index in operator.outputs:
            if index in ratios:
                before = _ratio_before(case.graph, operator.inputs, ratios=ratios)
                falls.append((before - ratios[index], before, ratios[index], operator))
    falls = [item for item in falls if item[0] >= _FALL_DB and item[2] < _LOW_DB]
    if not falls:
        return found
    # The first in the order of execution; later ones inherit its error.
    _, before, after, operator = min(falls, key=lambda item: item[3].position)
    name = case.graph.tensors[operator.outputs[0]].name.split(";")[0]
    return [
        *found,
        problem(
            "exploding_error",
            f"operator {operator.position} {operator.kind} {name!r}: signal to noise falls from "
            f"{before:.1f} dB to {after:.1f} dB ({len(ratios)} tensors compared)",
            "Its range, its bias or one of its weight scales is wrong: calibrate again, equalize "
            "(--equalize), or exclude this layer (--keep_float, --int16).",
        ),
    ]


def _ratio_before(graph: Graph, inputs: tuple[int, ...], *, ratios: dict[int, float]) -> float:
    """Returns the lowest ratio of the nearest compared inputs; `_CEILING_DB` if there is none."""
    found, waiting, known = [_CEILING_DB], list(inputs), set()
    while waiting:
        index = waiting.pop()
        if index < 0 or index in known:
            continue
        known.add(index)
        if index in ratios:
            found.append(ratios[index])
        elif (operator := graph.producer(index)) is not None:
            waiting += operator.inputs
    return min(found)


def _few_pairs(seen: Observations, compared: int) -> list[Finding]:
    if not seen.layers or compared >= _FEW_PAIRS * len(seen.layers):
        return []
    return [
        warning(
            "reference_unlike",
            f"only {compared} of {len(seen.layers)} tensors have a counterpart in the reference",
            "Give the float file of the same export: tensors are matched by layer names.",
        )
    ]

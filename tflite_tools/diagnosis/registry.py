"""Lists all checks. A new one is a function of (case, seen) and one line here."""

import dataclasses
import enum
from collections.abc import Callable

from tflite_tools.diagnosis import activations, comparison, feeding, masks, structure
from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding
from tflite_tools.diagnosis.observation import Observations


class Needs(enum.Enum):
    """What a check needs to run."""

    GRAPH = "graph"
    """Only the file."""
    PHOTOS = "photos"
    """Photos that ran through the file."""
    TRUTH = "truth"
    """Photos with labels of the file's own classes."""
    REFERENCE = "reference"
    """Photos that ran through the file and a float reference."""
    INTEGER = "integer"
    """Photos that ran through a file with integer tensors."""


@dataclasses.dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what it checks, for the list of skipped checks.
        needs: what it needs to run.
        function: returns findings, none for a healthy file.
    """

    name: str
    needs: Needs
    function: Callable[[Case, Observations], list[Finding]]


CHECKS = (
    Check("input range", Needs.GRAPH, function=feeding.input_range),
    Check("float islands", Needs.GRAPH, function=structure.float_islands),
    Check("space to batch", Needs.GRAPH, function=structure.space_to_batch),
    Check("dynamic range", Needs.GRAPH, function=structure.dynamic_range),
    Check("argmax after cast", Needs.GRAPH, function=structure.argmax_after_cast),
    Check("resize convention", Needs.GRAPH, function=structure.resize_convention),
    Check("calibration images", Needs.GRAPH, function=structure.few_calibration_images),
    Check("label count", Needs.GRAPH, function=structure.label_count),
    Check("pixel values", Needs.PHOTOS, function=feeding.pixel_values),
    Check("orientation", Needs.PHOTOS, function=feeding.orientation),
    Check("normalization", Needs.TRUTH, function=feeding.normalization),
    Check("channel order", Needs.TRUTH, function=feeding.channel_order),
    Check("saturated ranges", Needs.INTEGER, function=activations.saturated_ranges),
    Check("unused ranges", Needs.INTEGER, function=activations.unused_ranges),
    Check("channels", Needs.PHOTOS, function=activations.dead_channels),
    Check("layer by layer", Needs.REFERENCE, function=comparison.exploding_error),
    Check("label order", Needs.TRUTH, function=masks.label_order),
    Check("never predicted", Needs.TRUTH, function=masks.never_predicted),
    Check("class outside the list", Needs.TRUTH, function=masks.class_outside),
    Check("constant mask", Needs.TRUTH, function=masks.constant_mask),
)
"""In the order of the report: causes before their effects."""


def obstacle(check: Check, case: Case, *, seen: Observations) -> str:
    """Returns why a check cannot run and what it needs; "" if it can.

    Args:
        check: the check.
        case: the file.
        seen: what was observed.
    """
    if check.needs is Needs.GRAPH:
        return ""
    if case.dataset is None:
        return "needs photos: give --dataset and --data_dir"
    if seen.failure:
        return "the file did not run"
    if case.contract.channels != case.dataset.channels:
        return case.truth_obstacle()
    if check.needs is Needs.TRUTH:
        return case.truth_obstacle()
    if check.needs is Needs.REFERENCE and case.reference is None:
        return "needs the float file of the same network: give --reference"
    if check.needs is Needs.INTEGER and not case.is_integer:
        return "the file computes with floats: it has no integer ranges"
    return ""

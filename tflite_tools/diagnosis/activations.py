"""Checks the ranges of an integer file on real photos, and finds dead channels.

A file that was calibrated on the wrong images either clips values (its ranges are too small) or
leaves most of its 256 steps unused (they are too large).
"""

from collections.abc import Iterator

import numpy as np

from tflite_tools.diagnosis.case import Case
from tflite_tools.diagnosis.finding import Finding, problem, some, warning
from tflite_tools.diagnosis.layers import LayerStatistics, real_limits
from tflite_tools.diagnosis.observation import Observations
from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor
from tflite_tools.flatbuffer.operators import traits

_CLIPPED_PROBLEM = 0.005
_CLIPPED_WARNING = 0.001
"""Fraction of a tensor's values at an end of its range, where no activation stops them. Files
calibrated on real photos had at most 0.0001, one calibrated on a single photo 0.002, on noise
0.05."""
_UNUSED = 1 / 16
"""A tensor that uses less of its range loses 4 of 8 bits. The narrowest healthy one uses 0.25."""
_UNUSED_TENSORS = 0.25
_DEAD_CHANNELS = 0.5
"""Fraction of a layer. Trained MobileNets have layers with a quarter dead."""
_LOST_CHANNELS = 0.1
"""Fraction of a layer that is dead in the file and alive in the reference. Rounding alone sets the
faintest 3 of 100 to a constant."""
_STUCK = 0.95
_CHANNEL_STEPS = 4
_ENOUGH_VALUES = 10_000
"""Of a tensor; a pooled vector of a few photos is too short for fractions of a thousandth."""
_FIXED_RANGE = (
    *("QUANTIZE", "DEQUANTIZE", "LOGISTIC", "SOFTMAX", "TANH", "HARD_SWISH", "ARG_MAX", "CAST"),
    *("PADV2", "TRANSPOSE", "STRIDED_SLICE", "SLICE", "EXPAND_DIMS"),
    *("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE"),
)
"""Operators that copy a range or whose range is fixed, besides those of one scale by the table."""
_SIX = 5.9


def _has_own_range(kind: str) -> bool:
    """Whether the calibration chose the range of an operator's output."""
    return kind not in _FIXED_RANGE and not traits(kind).same_scale


def _name(operator: Operator, tensor: Tensor) -> str:
    return f"{operator.position} {operator.kind} {tensor.name.split(';')[0]!r}"


def _natural_ends(operator: Operator, tensor: Tensor) -> tuple[bool, bool]:
    """Returns whether an activation stops values at the low and at the high end of the range."""
    fused = getattr(operator.options, "fusedActivationFunction", 0)
    relu = fused == 1 or operator.kind == "RELU"
    one = fused == 2 or operator.kind == "RELU_N1_TO_1"
    six = fused == 3 or operator.kind == "RELU6"
    return relu or six or one, one or (six and real_limits(tensor)[1] > _SIX)


def _computed(graph: Graph) -> list[tuple[Operator, Tensor]]:
    """Returns every operator with each of its outputs."""
    return [
        (operator, graph.tensors[index])
        for operator in graph.operators
        for index in operator.outputs
    ]


def _tensors_with_own_range(
    case: Case, seen: Observations
) -> Iterator[tuple[Operator, Tensor, LayerStatistics, tuple[bool, bool]]]:
    """Yields operator, tensor, statistics and natural ends of quantized tensors of own range."""
    for operator, tensor in _computed(case.graph):
        statistics = seen.layers.get(tensor.index)
        if statistics is None or statistics.histogram is None or not _has_own_range(operator.kind):
            continue
        if statistics.values >= _ENOUGH_VALUES:
            yield operator, tensor, statistics, _natural_ends(operator, tensor)


def _clipped(statistics: LayerStatistics, natural: tuple[bool, bool]) -> float:
    """Returns the fraction of the values (of the reference's if there are any) that are clipped."""
    comparison = statistics.comparison
    if comparison is not None:
        below, above, values = comparison.below, comparison.above, comparison.values
    else:
        below, above = int(statistics.at_low.sum()), int(statistics.at_high.sum())
        values = statistics.values
    return ((0 if natural[0] else below) + (0 if natural[1] else above)) / max(values, 1)


def saturated_ranges(case: Case, seen: Observations) -> list[Finding]:
    """Finds ranges that are too small for real photos."""
    shares = [
        (_clipped(statistics, natural), _name(operator, tensor))
        for operator, tensor, statistics, natural in _tensors_with_own_range(case, seen)
    ]
    over = sorted((item for item in shares if item[0] >= _CLIPPED_WARNING), reverse=True)
    if not over:
        return []
    make = problem if over[0][0] >= _CLIPPED_PROBLEM else warning
    source = "the reference's values lie outside" if seen.pairs else "values lie at the end"
    return [
        make(
            "saturated_ranges",
            f"in {len(over)} of {len(shares)} tensors more than {_CLIPPED_WARNING:.1%} of "
            f"{source} of the range, worst: "
            + some([f"{name} {share:.2%}" for share, name in over]),
            "Calibrated on images that are not like these: random noise, one image, photos that "
            "were not normalized. Calibrate again on 100 photos of the training list, normalized "
            "by the contract.",
        )
    ]


def unused_ranges(case: Case, seen: Observations) -> list[Finding]:
    """Finds ranges that are far too large for real photos."""
    free = [item for item in _tensors_with_own_range(case, seen) if not item[3][1]]
    shares = [
        (statistics.used_share, _name(operator, tensor)) for operator, tensor, statistics, _ in free
    ]
    under = sorted(item for item in shares if item[0] < _UNUSED)
    if not under:
        return []
    make = problem if len(under) >= _UNUSED_TENSORS * len(shares) else warning
    return [
        make(
            "unused_ranges",
            f"{len(under)} of {len(shares)} tensors use less than 1/16 of their range, worst: "
            + some([f"{name} {share:.1%}" for share, name in under]),
            "Calibrated on images with larger values: pixels 0..255 that were not normalized, or "
            "a few outliers. Calibrate on normalized photos; --activation_ranges=mse cuts "
            "outliers off.",
        )
    ]


def dead_channels(case: Case, seen: Observations) -> list[Finding]:
    """Finds channels with one value on every photo and at every position."""
    dead, stuck = [], []
    for operator, tensor in _computed(case.graph):
        statistics = seen.layers.get(tensor.index)
        if statistics is None or not _has_own_range(operator.kind) or max(tensor.shape[1:3]) == 1:
            continue
        natural = _natural_ends(operator, tensor)
        name, channels = _name(operator, tensor), tensor.shape[-1]
        held = _stuck_channels(statistics, natural)
        if held.any():
            stuck.append(f"{name} {int(held.sum())} of {channels}")
        constant = (statistics.low == statistics.high) & ~held
        lost = constant & _alive_in_reference(statistics, tensor)
        if constant.mean() > _DEAD_CHANNELS or lost.mean() > _LOST_CHANNELS:
            more = f" ({int(lost.sum())} alive in the reference)" if lost.any() else ""
            dead.append(f"{name} {int(constant.sum())} of {channels}{more}")
    found = []
    if dead:
        found.append(
            problem(
                "dead_channels",
                f"channels with one value on all photos: {some(dead)}",
                "If these channels vary in the float file, one range covers channels of too "
                "different size: equalize (--equalize) or calibrate again; else train with a "
                "smaller learning rate.",
            )
        )
    if stuck:
        found.append(
            problem(
                "saturated_channels",
                f"channels with {_STUCK:.0%} of their values at an end of the range: {some(stuck)}",
                "A bias or a range is wrong: compare with --reference, calibrate again, and look "
                "at the layer's batch norm.",
            )
        )
    return found


def _stuck_channels(statistics: LayerStatistics, natural: tuple[bool, bool]) -> np.ndarray:
    """Returns bool [channels]: values stuck at an end. An activation's zero is no fault."""
    channels = len(statistics.low)
    if statistics.histogram is None:
        return np.zeros(channels, bool)
    rows = statistics.values / channels
    low = np.zeros(channels, bool) if natural[0] else statistics.at_low / rows > _STUCK
    return low | (statistics.at_high / rows > _STUCK)


def _alive_in_reference(statistics: LayerStatistics, tensor: Tensor) -> np.ndarray:
    """Returns bool [channels]: the reference's channel varies by more than a few steps."""
    comparison = statistics.comparison
    if comparison is None or tensor.quantization is None:
        return np.zeros(len(statistics.low), bool)
    step = float(tensor.quantization.scale[0])
    return comparison.high - comparison.low > _CHANNEL_STEPS * step

"""One sentence: what would take most of the time off a file."""

import collections
import dataclasses

from tflite_tools.benchmarking.profile import OperatorTime, Profile
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.flatbuffer.multiply_adds import is_integer, multiply_adds
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits

_INT8_SAVES = 0.52
"""Of a float file's time: int8 took 0.48 of float32's (docs/measurements/latency)."""
_PER_TENSOR_SAVES = 0.5
"""Of the time of an old uint8 file with one scale per tensor (docs/measurements/latency)."""
_WORTH = 0.3
"""Smallest share of the time that is worth a sentence of its own."""
_THREADS = 1


@dataclasses.dataclass(frozen=True)
class Advice:
    """What would save time.

    Attributes:
        sentence: for a person.
        saves: estimated share of the time, or None.
        measured: whether it rests on times of this machine, not on multiply-adds alone.
    """

    sentence: str
    saves: float | None
    measured: bool


@dataclasses.dataclass(frozen=True)
class _Candidate:
    saves: float
    sentence: str


def advise(
    graph: Graph, variant: str, *, profile: Profile | None, size: tuple[int, int] | None
) -> Advice:
    """Chooses what saves most.

    Args:
        graph: of the file.
        variant: number format, see `guess_variant`; other names are judged by the graph.
        profile: times of the operators, or None.
        size: (height, width) of the input, or None if it is no image.
    """
    profile = profile if profile and not profile.failure and profile.total(_THREADS) else None
    found = [
        candidate
        for candidate in (
            _end(graph, profile),
            _numbers(graph, variant),
            _slow_kernels(profile),
            _space_to_batch(profile),
        )
        if candidate is not None and candidate.saves >= _WORTH
    ]
    best = max(found, key=lambda candidate: candidate.saves, default=None)
    if best is not None:
        return Advice(best.sentence, best.saves, profile is not None)
    return _smaller_input(graph, profile, size=size)


def _numbers(graph: Graph, variant: str) -> _Candidate | None:
    """Float arithmetic, or the old kernels with one scale per tensor."""
    if not sum(multiply_adds(graph)):
        return None
    if not is_integer(graph):
        name = variant if variant in ("float32", "float16") else "float"
        return _Candidate(
            _INT8_SAVES,
            f"It computes in {name}: int8 weights and activations would about halve its time "
            "(0.48 of float32's on CamVid here) and quarter float32's bytes; "
            "tflite_tools.to_keras and export.requantize convert it.",
        )
    computed = {
        graph.tensors[operator.outputs[0]].type_name
        for operator in graph.operators
        if operator.kind in CONVOLUTIONS
    }
    if computed == {"FLOAT32"}:
        return _Candidate(
            _INT8_SAVES,
            "Its weights are integers but its activations are float (dynamic range): int8 "
            "activations would take well over half of its time off; calibrate with "
            "export.requantize.",
        )
    if computed == {"UINT8"} and not _per_channel(graph):
        return _Candidate(
            _PER_TENSOR_SAVES,
            "It is uint8 with one scale per tensor, for which the runtime has no fast kernels: the "
            "same network as int8 per channel takes half the time; tflite_tools.to_keras and "
            "export.requantize rebuild it.",
        )
    return None


def _per_channel(graph: Graph) -> bool:
    for operator in graph.operators:
        if operator.kind in CONVOLUTIONS:
            weights = graph.tensors[operator.inputs[traits(operator.kind).slots[1]]]
            if weights.quantization is not None and weights.quantization.per_channel:
                return True
    return False


def _end(graph: Graph, profile: Profile | None) -> _Candidate | None:
    """What stands behind the last operator that multiplies weights."""
    counts = multiply_adds(graph)
    last = max((position for position, count in enumerate(counts) if count), default=None)
    if profile is None or last is None:
        return None
    behind = [each for each in profile.operators if each.position is not None]
    behind = [each for each in behind if each.position is not None and each.position > last]
    share = _share(behind, profile)
    if not behind:
        return None
    kinds = " and ".join(dict.fromkeys(each.kind for each in behind))
    return _Candidate(
        share,
        f"{kinds} behind the last convolution take {share:.0%} of the time: let the file end in "
        "the low-resolution logits, take their argmax, and enlarge the class map by nearest "
        "neighbour.",
    )


def _slow_kernels(profile: Profile | None) -> _Candidate | None:
    if profile is None:
        return None
    slow = [each for each in profile.operators if each.kernel == "builtin" and each.kind]
    share = _share(slow, profile)
    kinds = [kind for kind, _ in collections.Counter(each.kind for each in slow).most_common(3)]
    return _Candidate(
        share / 2,
        f"{', '.join(kinds)} run on the runtime's own kernels, which XNNPACK does not replace, and "
        f"take {share:.0%} of the time: a conversion with int8 per channel and static shapes "
        "lets XNNPACK take them.",
    )


def _space_to_batch(profile: Profile | None) -> _Candidate | None:
    if profile is None:
        return None
    share = profile.share(_THREADS, "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    return _Candidate(
        share,
        f"SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND around atrous convolutions take {share:.0%} of "
        "the time: convert with a static batch of 1, which keeps one dilated convolution.",
    )


def _share(operators: list[OperatorTime], profile: Profile) -> float:
    return sum(each.ms[_THREADS] for each in operators) / profile.total(_THREADS)


def _smaller_input(
    graph: Graph, profile: Profile | None, *, size: tuple[int, int] | None
) -> Advice:
    """Nothing single stands out: half of the pixels, and the largest operator."""
    largest = _largest(graph, profile)
    if size is None or not sum(multiply_adds(graph)):
        return Advice(f"No single part stands out; {largest}.", None, profile is not None)
    height, width = (max(16, round(length / 2**0.5 / 16) * 16) for length in size)
    part = height * width / (size[0] * size[1])
    return Advice(
        f"No single part stands out ({largest}): an input of {height} x {width} instead of "
        f"{size[0]} x {size[1]} would leave about {part:.0%} of its time, at a cost in accuracy "
        "that tflite_tools.evaluate measures.",
        1 - part,
        profile is not None,
    )


def _largest(graph: Graph, profile: Profile | None) -> str:
    if profile is not None:
        top = max(profile.operators, key=lambda each: each.ms[_THREADS])
        share = top.ms[_THREADS] / profile.total(_THREADS)
        return f"the largest operator, {top.label} {top.layer or ''}".rstrip() + (
            f", takes {share:.0%} of the time"
        )
    counts = multiply_adds(graph)
    total = sum(counts)
    if not total:
        return f"it has no multiply-adds in its {len(graph.operators)} operators"
    top_position = max(range(len(counts)), key=counts.__getitem__)
    return (
        f"the largest operator, {graph.operators[top_position].kind}, has "
        f"{counts[top_position] / total:.0%} of the multiply-adds"
    )

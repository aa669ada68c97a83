"""Checks a finished file for what is slow or wrong on a device; each rule names its remedy."""

import collections.abc
import pathlib

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from export.conversion.variants import RULES, FileSpec, Variant
from tflite_tools.flatbuffer.graph import Graph, Operator, read_graph
from tflite_tools.flatbuffer.operators import traits
from tflite_tools.runtime.file_interpreter import FileRunner

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")
_WIDE = ("FLOAT16", "FLOAT32", "FLOAT64", "INT16")
"""Activation types of more than 8 bits."""
_MOST_SHOWN = 3
"""Faults in the message of a refused file; one layer without an integer form can make dozens."""
_INPUT_SCALE_TOLERANCE = 1e-6
"""Relative; scales are stored as float32, whose relative rounding is 6e-8."""


def check_file(
    path: pathlib.Path, spec: FileSpec, *, preprocessing: Preprocessing, per_channel: bool = True
) -> list[str]:
    """Finds what makes a file slow or wrong on a device.

    Args:
        path: the file.
        spec: what it should be.
        preprocessing: normalization that the scale of its input must match.
        per_channel: False where one weight scale per kernel was asked for.

    Returns:
        one line per fault: operator or tensor, rule, remedy. Empty for a good file.
    """
    graph = read_graph(path)
    faults = _space_to_batch(graph) + _unfused_batch_norm(graph)
    if RULES[spec.variant].integer_only:
        faults += _float_tensors(graph)
        faults += _per_tensor_depthwise(graph) if per_channel else []
        faults += _clipped_biases(graph)
    if spec.variant in (Variant.INT8, Variant.QAT_INT8):
        faults += _input_scale(graph, preprocessing)
    return faults


def check_mixed_precision(
    path: pathlib.Path, integer: Graph, *, expected: collections.abc.Mapping[int, str]
) -> list[str]:
    """Checks that exactly the chosen operators of a file compute in more than 8 bits.

    Both files are compared without their QUANTIZE and DEQUANTIZE operators: they must hold the
    same operators in the same order, the chosen ones in their type and the others in that of the
    integer file. A conversion may read or write a wide tensor only where a chosen operator is at
    its other end.

    Args:
        path: the mixed-precision file.
        integer: the file that it was made from, which has passed `check_file`.
        expected: {position in `integer`: "FLOAT32" or "INT16", the type that the operator must
            compute in}.

    Returns:
        one line per fault; empty for a file that is as expected.
    """
    graph = read_graph(path)
    before, after = _without_conversions(integer), _without_conversions(graph)
    if [operator.kind for operator in before] != [operator.kind for operator in after]:
        return ["the file has other operators than the integer file that it was made from"]
    faults = [
        f"operator {position} cannot be of mixed precision: it is a conversion or does not exist"
        for position in sorted(set(expected) - {operator.position for operator in before})
    ]
    chosen: dict[int, str] = {}
    for old, new in zip(before, after, strict=True):
        if kind := expected.get(old.position):
            chosen[new.position] = kind
            faults += _wrong_type(graph, new, kind=kind)
        elif _types(integer, old) != _types(graph, new):
            faults.append(
                f"operator {new.position} ({new.kind}): expected "
                f"{', '.join(_types(integer, old))} as in the integer file, got "
                f"{', '.join(_types(graph, new))}"
            )
    for operator in graph.operators:
        if operator.kind in _CONVERSIONS:
            faults += _unneeded_conversion(graph, operator, chosen=chosen)
    return faults


def in_one_line(faults: list[str]) -> str:
    """Returns the first faults of a file, and how many more there are.

    Args:
        faults: of `check_file` or `check_mixed_precision`.
    """
    more = len(faults) - _MOST_SHOWN
    return "; ".join(faults[:_MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def run_once(path: pathlib.Path) -> list[str]:
    """Runs a file once, on seeded noise in a child process, and checks its outputs.

    Args:
        path: the file.

    Returns:
        one line per fault: the runtime refuses the file or crashes, or an output holds NaN or
        infinity.
    """
    graph = read_graph(path)
    image = graph.tensors[graph.inputs[0]]
    noise = np.random.default_rng(0).uniform(-1, 1, image.shape).astype(np.float32)
    try:
        outputs = FileRunner(path).outputs(noise)
    except (ValueError, RuntimeError) as error:
        return [f"the runtime does not run it: {error}"]
    if not all(np.isfinite(output).all() for output in outputs):
        return [
            "expected finite outputs for noise between -1 and 1, got NaN or infinity; a weight or "
            "a range is broken"
        ]
    return []


def _without_conversions(graph: Graph) -> list[Operator]:
    return [operator for operator in graph.operators if operator.kind not in _CONVERSIONS]


def _types(graph: Graph, operator: Operator) -> list[str]:
    indices = (*operator.inputs, *operator.outputs)
    return [graph.tensors[index].type_name if index >= 0 else "" for index in indices]


def _wrong_type(graph: Graph, operator: Operator, *, kind: str) -> list[str]:
    """A chosen operator must read and write its activations in its type.

    A float one with int8 weights would round its activations again: the runtime runs it as a
    hybrid operator.
    """
    inputs = [graph.tensors[index] for index in operator.inputs if index >= 0]
    activations = [tensor for tensor in inputs if tensor.data is None]
    if kind == "FLOAT32":
        activations += [tensor for tensor in inputs if tensor.type_name == "INT8"]
    types = {tensor.type_name for tensor in activations}
    types |= {graph.tensors[index].type_name for index in operator.outputs}
    if types == {kind}:
        return []
    return [
        f"operator {operator.position} ({operator.kind}): expected {kind}, got "
        f"{', '.join(sorted(types))}"
    ]


def _unneeded_conversion(graph: Graph, operator: Operator, *, chosen: dict[int, str]) -> list[str]:
    """A wide tensor of a conversion inside the file must belong to a chosen operator."""
    outside = set(graph.inputs) | set(graph.outputs)
    for index in (operator.inputs[0], operator.outputs[0]):
        tensor = graph.tensors[index]
        if tensor.type_name not in _WIDE or index in outside:
            continue
        producer = graph.producer(index)
        neighbours = [*graph.consumers(index), *([producer] if producer else [])]
        others = [o for o in neighbours if o.kind not in _CONVERSIONS]
        if not any(chosen.get(other.position) == tensor.type_name for other in others):
            return [
                f"operator {operator.position} ({operator.kind}) converts {tensor.type_name} "
                f"tensor {tensor.name!r}, but no operator of that precision reads or writes it"
            ]
    return []


def _space_to_batch(graph: Graph) -> list[str]:
    return [
        f"operator {operator.position} is {operator.kind}: the batch was dynamic when the graph "
        "was traced; convert with static batch 1"
        for operator in graph.operators
        if operator.kind in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    ]


def _unfused_batch_norm(graph: Graph) -> list[str]:
    """A MUL by one constant per channel directly behind a convolution without an activation."""
    faults = []
    for operator in graph.operators:
        if operator.kind != "MUL":
            continue
        tensors = [graph.tensors[index] for index in operator.inputs]
        constants = [tensor.data for tensor in tensors if tensor.data is not None]
        producers = [graph.producer(index) for index in operator.inputs]
        behind = [
            p
            for p in producers
            if p is not None and p.kind in _CONVOLUTIONS and not _has_activation(p)
        ]
        if behind and any(constant.size > 1 for constant in constants):
            faults.append(
                f"operator {operator.position} (MUL after {behind[0].kind}) is a batch norm that "
                "was not folded; fold it before conversion, or convert with static batch 1"
            )
    return faults


def _has_activation(operator: Operator) -> bool:
    return getattr(operator.options, "fusedActivationFunction", 0) != 0


def _float_tensors(graph: Graph) -> list[str]:
    outside = set(graph.inputs) | set(graph.outputs)
    faults = []
    for operator in graph.operators:
        inside = [i for i in (*operator.inputs, *operator.outputs) if i >= 0 and i not in outside]
        names = [graph.tensors[index].name for index in inside if graph.tensors[index].is_float]
        if names:
            faults.append(
                f"operator {operator.position} ({operator.kind}) computes with float tensor "
                f"{names[0]!r}; it has no integer kernel in this form, use another layer"
            )
    return faults


def _per_tensor_depthwise(graph: Graph) -> list[str]:
    faults = []
    for operator in graph.operators:
        if operator.kind != "DEPTHWISE_CONV_2D":
            continue
        weights = graph.tensors[operator.inputs[1]]
        channels = weights.shape[-1]
        if weights.quantization and channels > 1 and not weights.quantization.per_channel:
            faults.append(
                f"operator {operator.position} (DEPTHWISE_CONV_2D) has one weight scale for "
                f"{channels} channels; train with this project's scheme, or convert per channel"
            )
    return faults


def _clipped_biases(graph: Graph) -> list[str]:
    """int32 biases at the end of their range."""
    faults = []
    for operator in graph.operators:
        slot = traits(operator.kind).bias
        if slot is None or len(operator.inputs) <= slot or operator.inputs[slot] < 0:
            continue
        bias = graph.tensors[operator.inputs[slot]].data
        if bias is None or bias.dtype != np.int32:
            continue
        clipped = np.flatnonzero(np.abs(bias.astype(np.int64)) >= np.iinfo(np.int32).max)
        if clipped.size:
            faults.append(
                f"operator {operator.position} ({operator.kind}): {clipped.size} of {bias.size} "
                f"biases do not fit in 32 bits (first: channel {clipped[0]}), because the scale of "
                "its input or of these weights is near zero; look for a dead tensor before it"
            )
    return faults


def _input_scale(graph: Graph, preprocessing: Preprocessing) -> list[str]:
    expected = preprocessing.uint8_quantization
    if expected is None:
        return []
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.quantization is None:  # float input: the first QUANTIZE holds the scale
        followers = graph.consumers(tensor.index)
        tensor = graph.tensors[followers[0].outputs[0]]
    if tensor.quantization is None:
        return [f"input {tensor.name!r} is not quantized; check the head and the variant"]
    scale, zero_point = float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])
    shift = 128 if tensor.type_name == "INT8" else 0
    if abs(scale / expected[0] - 1) > _INPUT_SCALE_TOLERANCE or zero_point + shift != expected[1]:
        return [
            f"input scale and zero point (as uint8): expected {expected[0]:.8f}, {expected[1]}, "
            f"got {scale:.8f}, {zero_point + shift}: camera bytes would need arithmetic; calibrate "
            "with images that hold both 0 and 255, normalized by the input contract"
        ]
    return []

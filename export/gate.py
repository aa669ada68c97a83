"""Reads a finished file back and refuses what would fail on a device: each rule with its cure."""

import pathlib

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from export.variants import RULES, FileSpec, Variant
from tflite_tools.flatbuffer.graph import Graph, read_graph
from tflite_tools.flatbuffer.operators import traits

_CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_INPUT_SCALE_TOLERANCE = 1e-6
"""Relative; scales are stored as float32, with 6e-8 relative rounding."""


def check_file(
    path: pathlib.Path, spec: FileSpec, preprocessing: Preprocessing, per_channel: bool = True
) -> list[str]:
    """Finds what makes a file slow or wrong on a device.

    Args:
        path: the file.
        spec: what it should be.
        preprocessing: that its input must stand for.
        per_channel: False where one weight scale a kernel was asked for.

    Returns:
        one line a fault: operator or tensor, rule, cure. Empty for a good file.
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


def _space_to_batch(graph: Graph) -> list[str]:
    return [
        f"operator {operator.position} is {operator.kind}: the batch was dynamic when the graph "
        "was traced; convert with static batch 1"
        for operator in graph.operators
        if operator.kind in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    ]


def _unfused_batch_norm(graph: Graph) -> list[str]:
    """A MUL by one constant a channel right behind a convolution."""
    faults = []
    for operator in graph.operators:
        if operator.kind != "MUL":
            continue
        tensors = [graph.tensors[index] for index in operator.inputs]
        constants = [tensor.data for tensor in tensors if tensor.data is not None]
        producers = [graph.producer(index) for index in operator.inputs]
        behind = [p for p in producers if p is not None and p.kind in _CONVOLUTIONS]
        if behind and any(constant.size > 1 for constant in constants):
            faults.append(
                f"operator {operator.position} (MUL after {behind[0].kind}) is a batch norm that "
                "was not folded; fold it before conversion, or convert with static batch 1"
            )
    return faults


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
                f"biases do not fit 32 bits (first: channel {clipped[0]}), because the scale of "
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
            f"input scale {scale:.8f}, zero point {zero_point + shift} (as uint8) instead of "
            f"{expected[0]:.8f}, {expected[1]}: camera bytes would need arithmetic; calibrate with "
            "images that hold both 0 and 255, normalized by the contract"
        ]
    return []

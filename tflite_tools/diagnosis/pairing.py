"""Matches tensors of a file with tensors of its float reference by the names of Keras layers."""

import re

from tflite_tools.diagnosis.layers import measured_tensors
from tflite_tools.flatbuffer.graph import Graph

_QUANTIZED = "quant_"
"""Prefix of every layer in quantization-aware training."""
_SERIAL = re.compile(r"\d+$")


def layer_key(name: str) -> str:
    """Returns the part of a tensor's name that two files of one network share.

    A fused operator's name lists its layers, the last first:
    `deeplab/quant_Conv1_relu/Relu6;deeplab/quant_bn_Conv1/FusedBatchNormV3;...1`. The first names
    the tensor; the converter numbers the operation behind it.

    Args:
        name: of the tensor.
    """
    first, *_ = name.split(";")
    *layers, operation = [part.removeprefix(_QUANTIZED) for part in first.split("/")]
    if not layers:
        return operation
    return "/".join([*layers, _SERIAL.sub("", operation)])


def pair_tensors(graph: Graph, reference: Graph) -> dict[int, int]:
    """Matches tensors of a file with those of its reference.

    Names that occur twice, or with another shape, are not matched; the outputs always are.

    Args:
        graph: of the file.
        reference: of the float file.

    Returns:
        Index of the reference's tensor by index of the file's.
    """
    own, theirs = _by_key(graph), _by_key(reference)
    pairs = {
        index: theirs[key]
        for key, index in own.items()
        if key in theirs and graph.tensors[index].shape == reference.tensors[theirs[key]].shape
    }
    outputs = graph.outputs[0], reference.outputs[0]
    known = (
        {tensor.index for tensor in measured_tensors(graph)},
        {t.index for t in measured_tensors(reference)},
    )
    same = graph.tensors[outputs[0]].shape == reference.tensors[outputs[1]].shape
    if same and outputs[0] in known[0] and outputs[1] in known[1]:
        pairs[outputs[0]] = outputs[1]
    return pairs


def _by_key(graph: Graph) -> dict[str, int]:
    found: dict[str, int] = {}
    repeated = set()
    for tensor in measured_tensors(graph):
        key = layer_key(tensor.name)
        if key in found:
            repeated.add(key)
        found[key] = tensor.index
    return {key: index for key, index in found.items() if key not in repeated}

"""Reads the convolutions of a `.tflite` as float kernels in Keras' layout."""

import dataclasses

import numpy as np

from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import traits


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A convolution with folded batch norm.

    Attributes:
        name: name of the output tensor.
        depthwise: whether it is a depthwise convolution.
        kernel: float32 [height, width, in, out], depthwise [height, width, in, multiplier].
        bias: float32 [out].
        sources: positions, in the list of convolutions, of the nearest ones that its input is
            computed from; empty where it reads the image.
    """

    name: str
    depthwise: bool
    kernel: np.ndarray
    bias: np.ndarray
    sources: frozenset[int] = frozenset()


UNPACKS = ("DEQUANTIZE", "DENSIFY")
"""Operators between a stored constant and its readers; sparse values are dense once read."""


def read_convolutions(graph: Graph) -> list[Convolution]:
    """Reads all CONV_2D and DEPTHWISE_CONV_2D of a file, dequantized, in the order of execution.

    Args:
        graph: the file.
    """
    sources_of: dict[int, frozenset[int]] = {}  # tensor -> nearest convolutions before it
    found: list[Convolution] = []
    for operator in graph.operators:
        inputs = [index for index in operator.inputs if index in sources_of]
        sources = frozenset().union(*(sources_of[index] for index in inputs))
        if operator.kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
            found.append(_read(graph, operator, sources=sources))
            sources = frozenset({len(found) - 1})
        sources_of |= dict.fromkeys(operator.outputs, sources)
    return found


def _read(graph: Graph, operator: Operator, *, sources: frozenset[int]) -> Convolution:
    depthwise = operator.kind == "DEPTHWISE_CONV_2D"
    weights = operand(graph, operator, slot=1)
    if depthwise:  # [1, height, width, in * multiplier]
        multiplier = operator.options.depthMultiplier
        kernel = weights[0].reshape(*weights.shape[1:3], -1, multiplier)
    else:  # [out, height, width, in]
        kernel = weights.transpose(1, 2, 3, 0)
    channels = weights.shape[3] if depthwise else weights.shape[0]
    slot = traits(operator.kind).slots[2]
    has_bias = len(operator.inputs) > slot and operator.inputs[slot] >= 0
    bias = constant(graph, operator.inputs[slot]) if has_bias else np.zeros(channels, np.float32)
    # The converter joins the names of fused operators with ";".
    name = graph.tensors[operator.outputs[0]].name.split(";")[0]
    return Convolution(name, depthwise, kernel=kernel, bias=bias, sources=sources)


def constant(graph: Graph, index: int) -> np.ndarray:
    """Returns a constant as float32, also where a file stores it as float16 or sparse.

    Args:
        graph: the file.
        index: tensor index.

    Raises:
        ValueError: the tensor is computed from the input.
    """
    tensor = graph.tensors[index]
    if tensor.data is None:
        producer = graph.producer(index)
        if producer is not None and producer.kind in UNPACKS:
            return constant(graph, producer.inputs[0])
    return tensor.dequantized()


_HYBRID = ("CONV_2D", "FULLY_CONNECTED")
"""Operators whose kernels accept UINT8 weights with float activations."""


def operand(graph: Graph, operator: Operator, *, slot: int) -> np.ndarray:
    """Returns a constant input as float32, as the operator's kernel reads it.

    Early dynamic-range files store symmetric weights as UINT8 with zero point 0. With float
    activations the runtime reads these bytes as signed: 255 is -1.

    Args:
        graph: the file.
        operator: the operator.
        slot: which of its inputs.

    Raises:
        ValueError: the tensor is computed from the input.
    """
    tensor = graph.tensors[operator.inputs[slot]]
    if (
        operator.kind in _HYBRID
        and slot == 1
        and tensor.type_name == "UINT8"
        and tensor.data is not None
        and tensor.quantization is not None
        and not tensor.quantization.zero_point.any()
        and graph.tensors[operator.inputs[0]].is_float
    ):
        tensor = dataclasses.replace(tensor, type_name="INT8", data=tensor.data.view(np.int8))
        return tensor.dequantized()
    return constant(graph, tensor.index)

"""Small questions about an operator's inputs and options that every target asks."""

import numpy as np

from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor


def inputs(graph: Graph, operator: Operator) -> list[Tensor]:
    """The inputs that are there."""
    return [graph.tensors[index] for index in operator.inputs if index >= 0]


def computed(graph: Graph, operator: Operator) -> list[Tensor]:
    """Inputs and outputs that are not constant."""
    indices = (*operator.inputs, *operator.outputs)
    tensors = [graph.tensors[index] for index in indices if index >= 0]
    return [tensor for tensor in tensors if tensor.data is None]


def option(operator: Operator, name: str, *, default):
    """A field of the schema's options; `default` where the file has none."""
    return getattr(operator.options, name, default)


def constant(graph: Graph, operator: Operator, *, slot: int) -> np.ndarray | None:
    """Value of one input; None where it is computed or left out."""
    if slot >= len(operator.inputs) or operator.inputs[slot] < 0:
        return None
    return graph.tensors[operator.inputs[slot]].data


def axes(graph: Graph, operator: Operator, *, slot: int, of: int = 0) -> set[int] | None:
    """Constant axes in one input, counted from the front of input `of`; None if computed."""
    values = constant(graph, operator, slot=slot)
    if values is None:
        return None
    rank = len(graph.tensors[operator.inputs[of]].shape)
    return {int(axis) % max(rank, 1) for axis in np.ravel(values)}

"""Reads an operator's inputs and options, for the rules of all targets."""

from typing import Any

import numpy as np

from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor


def inputs(graph: Graph, operator: Operator) -> list[Tensor]:
    """Returns the inputs that are not omitted.

    Args:
        graph: the file.
        operator: of the file.
    """
    return [graph.tensors[index] for index in operator.inputs if index >= 0]


def computed(graph: Graph, operator: Operator) -> list[Tensor]:
    """Returns the inputs and outputs that are not constant.

    Args:
        graph: the file.
        operator: of the file.
    """
    indices = (*operator.inputs, *operator.outputs)
    tensors = [graph.tensors[index] for index in indices if index >= 0]
    return [tensor for tensor in tensors if tensor.data is None]


def option(operator: Operator, name: str, *, default: Any) -> Any:
    """Returns a field of the schema's options.

    Args:
        operator: of a file.
        name: of the field.
        default: value if the file has no options.
    """
    return getattr(operator.options, name, default)


def constant(graph: Graph, operator: Operator, *, slot: int) -> np.ndarray | None:
    """Returns the value of one input; None if it is computed or omitted.

    Args:
        graph: the file.
        operator: of the file.
        slot: position of the input.
    """
    if slot >= len(operator.inputs) or operator.inputs[slot] < 0:
        return None
    return graph.tensors[operator.inputs[slot]].data


def axes(graph: Graph, operator: Operator, *, slot: int, of: int = 0) -> set[int] | None:
    """Returns constant axes; None if they are computed.

    Args:
        graph: the file.
        operator: of the file.
        slot: position of the input that holds them.
        of: position of the input whose rank they count in.

    Returns:
        Axes, counted from the front.
    """
    values = constant(graph, operator, slot=slot)
    if values is None:
        return None
    rank = len(graph.tensors[operator.inputs[of]].shape)
    return {int(axis) % max(rank, 1) for axis in np.ravel(values)}

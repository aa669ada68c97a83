"""Checks a graph before any interpreter loads it: native kernels use indices unchecked.

The requirements of an operator are in the operator table (`tflite_tools.flatbuffer.operators`).
"""

from __future__ import annotations

import typing

from tflite_tools.flatbuffer.operators import ANY_RANK, traits

if typing.TYPE_CHECKING:
    from tflite_tools.flatbuffer.graph import Graph, Operator

LEFT_OUT = -1
"""Index of an optional input that is omitted."""


def check_graph(graph: Graph) -> None:
    """Checks every operator's inputs, outputs and ranks, and the order of execution.

    Args:
        graph: the graph.

    Raises:
        ValueError: the file is damaged; the first faulty operator is named.
    """
    for operator in graph.operators:
        if fault := _fault(operator, len(graph.tensors)) or _wrong_rank(graph, operator):
            raise ValueError(
                f"{graph.path}: damaged .tflite (operator {operator.position}, "
                f"{operator.kind}, {fault})"
            )
    _check_order(graph)


def has_unknown_shapes(graph: Graph) -> bool:
    """Returns whether a computed tensor that must be an image or a matrix has no stored shape."""
    needed = {index for operator in graph.operators for index, _ in _ranks(operator)}
    return any(
        not graph.tensors[index].shape and graph.producer(index) is not None for index in needed
    )


def _fault(operator: Operator, count: int) -> str:
    """Returns the fault of an operator's tensor indices, given `count` tensors; "" for none."""
    row = traits(operator.kind)
    for slot, index in enumerate(operator.inputs):
        omitted = index == LEFT_OUT and row.may_omit(slot)
        if not omitted and not 0 <= index < count:
            return f"reads tensor {index}"
    if len(operator.inputs) < row.least_inputs:
        return f"has {len(operator.inputs)} inputs"
    if not operator.outputs or not all(0 <= index < count for index in operator.outputs):
        return "writes nowhere"
    return ""


def _ranks(operator: Operator) -> list[tuple[int, range]]:
    """Returns (tensor, numbers of dimensions that the native kernel accepts there)."""
    row = traits(operator.kind)
    needed = [(operator.inputs[slot], ranks) for slot, ranks in row.input_ranks.items()]
    if row.output_rank is not ANY_RANK:
        needed.append((operator.outputs[0], row.output_rank))
    return needed


def _wrong_rank(graph: Graph, operator: Operator) -> str:
    for index, ranks in _ranks(operator):
        tensor = graph.tensors[index]
        # The runtime infers the shape of a computed tensor before any kernel reads it.
        if not tensor.shape and tensor.data is None and index not in graph.inputs:
            continue
        if len(tensor.shape) not in ranks:
            return f"expected {ranks.start} dimensions, got a tensor of shape {list(tensor.shape)}"
    return ""


def _check_order(graph: Graph) -> None:
    """Checks that every computed tensor is written once, before it is read."""
    known = set(graph.inputs)
    known |= {tensor.index for tensor in graph.tensors if tensor.data is not None}
    computed = {index for operator in graph.operators for index in operator.outputs}
    written: set[int] = set()
    for operator in graph.operators:
        for index in operator.inputs:
            if index in computed and index not in written:
                raise ValueError(
                    f"{graph.path}: damaged .tflite (operator {operator.position}, "
                    f"{operator.kind}, reads tensor {index} before it is written)"
                )
        for index in operator.outputs:
            if index in written or index in known:
                raise ValueError(f"{graph.path}: damaged .tflite (tensor {index} is written twice)")
            written.add(index)

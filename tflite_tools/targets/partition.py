"""How a graph splits between an accelerator and the processor.

A compiler that makes one partition (Edge TPU) ends it at the first operator that it cannot
map. A delegate (GPU, NNAPI) takes several, each as large as the order of execution allows.
"""

from collections.abc import Iterable

from tflite_tools.flatbuffer.graph import Graph, Operator


def name_of(operator: Operator) -> str:
    return f"operator {operator.position}, {operator.kind}"


def spread_downstream(graph: Graph, reasons: dict[int, str], harmless: set[int]) -> dict[int, str]:
    """Adds every operator that depends on one that is not mapped.

    Args:
        graph: the file.
        reasons: position -> why an operator cannot be mapped by itself.
        harmless: positions in `reasons` whose consumers may still be mapped.

    Returns:
        reasons, with the dependent operators and the one that each waits for.
    """
    spread = dict(reasons)
    root = {
        index: operator
        for operator in graph.operators
        if operator.position in reasons and operator.position not in harmless
        for index in operator.outputs
    }
    for operator in graph.operators:
        waits_for = [root[index] for index in operator.inputs if index in root]
        if not waits_for:
            continue
        first = min(waits_for, key=lambda cause: cause.position)
        # Its own reason stays, but what follows names the first cause, not the second.
        root |= dict.fromkeys(operator.outputs, first)
        spread.setdefault(operator.position, f"depends on {name_of(first)}: one partition only")
    return spread


def delegated_parts(graph: Graph, supported: set[int]) -> list[list[int]]:
    """The parts that a delegate takes, as the runtime partitions a graph.

    Each round is of the sort (supported or not) of the first operator whose inputs are ready,
    and takes every operator of that sort whose inputs are or become ready.

    Returns:
        positions of each part of supported operators, in the order of execution.
    """
    written = {index for operator in graph.operators for index in operator.outputs}
    ready = {tensor.index for tensor in graph.tensors} - written | {-1}  # -1: left out
    waiting = list(graph.operators)
    parts = []
    while first := next((o for o in waiting if ready.issuperset(o.inputs)), None):
        taken = _take(waiting, ready, supported, first.position in supported)
        if first.position in supported:
            parts.append(taken)
        waiting = [operator for operator in waiting if operator.position not in set(taken)]
    return parts


def largest(parts: Iterable[list[int]], limit: int) -> set[int]:
    """Positions of the `limit` largest parts; of equal ones the first."""
    chosen = sorted(parts, key=len, reverse=True)[:limit]
    return {position for part in chosen for position in part}


def _take(waiting, ready: set[int], supported: set[int], sort: bool) -> list[int]:
    taken = []
    for operator in waiting:
        if (operator.position in supported) is sort and ready.issuperset(operator.inputs):
            taken.append(operator.position)
            ready |= set(operator.outputs)
    return taken

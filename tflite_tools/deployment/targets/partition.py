"""Splits a graph between an accelerator and the processor.

A compiler that makes one partition (Edge TPU) starts it after operators that it cannot map, and
ends it at the next one. A delegate (GPU, NNAPI) takes several partitions, each as large as the
order of execution allows.
"""

from collections.abc import Iterable

from tflite_tools.flatbuffer.graph import Graph, Operator


def name_of(operator: Operator) -> str:
    """Returns position and kind, for messages.

    Args:
        operator: of a file.
    """
    return f"operator {operator.position}, {operator.kind}"


def spread_downstream(
    graph: Graph, reasons: dict[int, str], *, harmless: set[int]
) -> dict[int, str]:
    """Adds every operator that depends on one that is not mapped.

    Args:
        graph: the file.
        reasons: position -> why an operator cannot be mapped by itself.
        harmless: positions in `reasons` whose consumers may still be mapped.

    Returns:
        The reasons, with those of the dependent operators added.
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


def one_run(
    graph: Graph, reasons: dict[int, str], *, inputs: set[int]
) -> tuple[set[int], dict[int, str]]:
    """Finds the single partition of a compiler: a connected run of operators that can be mapped.

    Operators that cannot be mapped and do not depend on mapped ones stay on the CPU in front of it.
    If several runs could start, after different ones of them or at the graph's own input, the
    largest is taken.

    Args:
        graph: the file.
        reasons: position -> why an operator cannot be mapped by itself.
        inputs: positions in `reasons` that only convert an input: their consumers count as one run
            with the consumers of the graph's inputs.

    Returns:
        Positions in front of the run, and the reasons of all operators outside it.
    """
    front: set[int] = set()
    before: dict[int, list[int]] = {}
    producer: dict[int, int] = {}
    for operator in graph.operators:
        position = operator.position
        before[position] = [producer[index] for index in operator.inputs if index in producer]
        if position in reasons and front.issuperset(before[position]):
            front.add(position)
        producer |= dict.fromkeys(operator.outputs, position)
    spread = spread_downstream(graph, reasons, harmless=front)
    mapped = [operator for operator in graph.operators if operator.position not in spread]
    run = _largest_run(_connected(graph, mapped), before, front=front - inputs)
    feeding: set[int] = set()
    waiting = list(run)
    while waiting:
        new = {position for position in before[waiting.pop()] if position in front} - feeding
        feeding |= new
        waiting += new
    left = spread_downstream(graph, reasons, harmless=feeding)
    for operator in mapped:  # another run after the same operators
        if operator.position not in run:
            left.setdefault(operator.position, "not connected with the rest: one partition only")
    return feeding, left


def _connected(graph: Graph, operators: list[Operator]) -> list[set[int]]:
    """Groups operators so that groups share no tensors except constants; returns positions."""
    groups: list[tuple[set[int], set[int]]] = []  # positions and tensors
    for operator in operators:
        touched = (*operator.inputs, *operator.outputs)
        positions = {operator.position}
        tensors = {i for i in touched if i >= 0 and graph.tensors[i].data is None}
        apart = []
        for group in groups:
            if group[1].isdisjoint(tensors):
                apart.append(group)
            else:
                positions, tensors = positions | group[0], tensors | group[1]
        groups = [*apart, (positions, tensors)]
    return [positions for positions, _ in groups]


def _largest_run(
    groups: list[set[int]], before: dict[int, list[int]], *, front: set[int]
) -> set[int]:
    """Returns the largest group, of equal ones the first.

    Groups that no operator of `front` feeds start at the graph's inputs and count as one.
    """
    runs: list[set[int]] = []
    begin: set[int] = set()
    for group in groups:
        if front.isdisjoint(source for position in group for source in before[position]):
            begin |= group
        else:
            runs.append(group)
    runs = sorted([run for run in (begin, *runs) if run], key=min)
    return max(runs, key=len, default=set())


def delegated_parts(graph: Graph, supported: set[int]) -> list[list[int]]:
    """Finds the parts that a delegate takes, as the runtime partitions a graph.

    Each round has the kind (supported or not) of the first operator whose inputs are ready, and
    takes every operator of that kind whose inputs are or become ready.

    Args:
        graph: the file.
        supported: positions of the operators that the delegate supports.

    Returns:
        Positions of each part of supported operators, in the order of execution.
    """
    written = {index for operator in graph.operators for index in operator.outputs}
    ready = {tensor.index for tensor in graph.tensors} - written | {-1}  # -1: omitted
    waiting = list(graph.operators)
    parts = []
    while first := next((o for o in waiting if ready.issuperset(o.inputs)), None):
        taken = _take(waiting, ready, supported=supported, sort=first.position in supported)
        if first.position in supported:
            parts.append(taken)
        waiting = [operator for operator in waiting if operator.position not in set(taken)]
    return parts


def largest(parts: Iterable[list[int]], limit: int) -> set[int]:
    """Returns the positions of the largest parts; of equal ones the first.

    Args:
        parts: positions of each.
        limit: number of parts.
    """
    chosen = sorted(parts, key=len, reverse=True)[:limit]
    return {position for part in chosen for position in part}


def _take(
    waiting: list[Operator], ready: set[int], *, supported: set[int], sort: bool
) -> list[int]:
    taken = []
    for operator in waiting:
        if (operator.position in supported) is sort and ready.issuperset(operator.inputs):
            taken.append(operator.position)
            ready |= set(operator.outputs)
    return taken

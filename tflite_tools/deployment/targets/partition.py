"""How a graph splits between an accelerator and the processor.

A compiler that makes one partition (Edge TPU) begins it behind operators that it cannot map, and
ends it at the next one. A delegate (GPU, NNAPI) takes several, each as large as the order of
execution allows.
"""

from collections.abc import Iterable

from tflite_tools.flatbuffer.graph import Graph, Operator


def name_of(operator: Operator) -> str:
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


def one_run(
    graph: Graph, reasons: dict[int, str], *, inputs: set[int]
) -> tuple[set[int], dict[int, str]]:
    """The one partition of a compiler: a connected run of operators that can be mapped.

    Operators that cannot be mapped and depend on nothing that can, stay on the CPU in front of
    it. Where several runs could begin, behind different ones of them or at the graph's own input,
    the largest is taken.

    Args:
        graph: the file.
        reasons: position -> why an operator cannot be mapped by itself.
        inputs: positions in `reasons` that only bring an input in: what they feed counts as one
            run with what reads the graph's inputs.

    Returns:
        positions in front of the run, and the reasons with every operator that is left out.
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
    for operator in mapped:  # another run behind the same operators
        if operator.position not in run:
            left.setdefault(operator.position, "not connected with the rest: one partition only")
    return feeding, left


def _connected(graph: Graph, operators: list[Operator]) -> list[set[int]]:
    """Positions of operators in groups that share no tensor but constants."""
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
    """The largest group, of equal ones the first; groups that no operator of `front` feeds begin
    where the graph does and count as one.
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
        taken = _take(waiting, ready, supported=supported, sort=first.position in supported)
        if first.position in supported:
            parts.append(taken)
        waiting = [operator for operator in waiting if operator.position not in set(taken)]
    return parts


def largest(parts: Iterable[list[int]], limit: int) -> set[int]:
    """Positions of the `limit` largest parts; of equal ones the first."""
    chosen = sorted(parts, key=len, reverse=True)[:limit]
    return {position for part in chosen for position in part}


def _take(waiting, ready: set[int], *, supported: set[int], sort: bool) -> list[int]:
    taken = []
    for operator in waiting:
        if (operator.position in supported) is sort and ready.issuperset(operator.inputs):
            taken.append(operator.position)
            ready |= set(operator.outputs)
    return taken

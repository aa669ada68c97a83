"""Measures the time of every operator of a file with the runtime's own profiler.

Each operator's time is its fastest of all invokes, files and thread counts in turn: operators are
short, so on a busy machine each of them runs undisturbed in some invoke, while whole invokes rarely
do. The clock has a resolution of one microsecond. The overhead of the profiler was below the noise:
fastest of 80 invokes of an int8 DeepLabV3+ 15.7 ms with it and 15.8 ms without.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from tflite_tools.benchmarking.native import Event, ProfiledModel
from tflite_tools.benchmarking.partitions import delegate_partitions, match_kernels
from tflite_tools.contract import ModelContract
from tflite_tools.flatbuffer.graph import Graph, Operator, read_graph
from tflite_tools.flatbuffer.multiply_adds import multiply_adds
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner
from tflite_tools.runtime.runtime_shapes import with_known_shapes

_WARMUP = 3
_loaded: dict[tuple[str, int], ProfiledModel] = {}
"""Of this process, by file and number of threads."""


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """One operator that ran.

    Attributes:
        position: in the file; None for a kernel that matches no operator of the file.
        kind: of the file's operator ("CONV_2D"), or "" without one.
        layer: name of the layer, from the output tensor; "" without an operator.
        kernel: XNNPACK's name of the kernel, or "builtin".
        multiply_adds: of one invoke.
        ms: fastest, by number of threads.
    """

    position: int | None
    kind: str
    layer: str
    kernel: str
    multiply_adds: int
    ms: dict[int, float]

    @property
    def label(self) -> str:
        """Kind of the operator, else the kernel."""
        return self.kind or self.kernel


@dataclasses.dataclass(frozen=True)
class Profile:
    """Times of the operators of one file.

    Attributes:
        name: of the file in tables.
        operators: what ran, in the order of execution.
        silent: operators of the file without a time of their own (fused, or computed at loading).
        partitions: of the delegate.
        delegated: operators that the delegate took.
        whole_ms: fastest whole invoke by number of threads.
        failure: why there are no times, or "".
    """

    name: str
    operators: tuple[OperatorTime, ...] = ()
    silent: tuple[str, ...] = ()
    partitions: int = 0
    delegated: int = 0
    whole_ms: dict[int, float] = dataclasses.field(default_factory=dict)
    failure: str = ""

    def total(self, num_threads: int) -> float:
        """Returns the milliseconds of all operators.

        Args:
            num_threads: of the measurement.
        """
        return sum(operator.ms[num_threads] for operator in self.operators)

    def share(self, num_threads: int, *kinds: str) -> float:
        """Returns the fraction of the operators' time that some kinds take.

        Args:
            num_threads: of the measurement.
            *kinds: prefixes of kinds.
        """
        part = sum(o.ms[num_threads] for o in self.operators if o.kind.startswith(kinds))
        return part / (self.total(num_threads) or 1.0)


def profiled_invoke(runner: ModelRunner, num_threads: int) -> tuple[list[Event], int]:
    """Runs one invoke under the profiler in a child process; the first call loads the file.

    Args:
        runner: of the file.
        num_threads: of the runtime.

    Returns:
        Events of the invoke, and its microseconds.
    """
    key = str(runner.contract.path), num_threads
    if key not in _loaded:
        _loaded[key] = ProfiledModel(runner.contract.path, num_threads)
        for _ in range(_WARMUP):
            _loaded[key].run()
    return _loaded[key].run_profiled()


def profile(
    contracts: list[ModelContract], num_threads: tuple[int, ...], *, repeats: int
) -> list[Profile]:
    """Profiles files in turn, in one child process.

    Args:
        contracts: the files.
        num_threads: thread counts, each measured.
        repeats: invokes of each file and thread count.

    Returns:
        One profile per file, in order.
    """
    runs: dict[tuple[int, int], list[tuple[list[Event], int]]] = {}
    tasks = (
        Task(index, profiled_invoke, arguments=(threads,))
        for _ in range(repeats)
        for threads in num_threads
        for index in range(len(contracts))
    )
    with InterpreterPool(contracts, 1) as pool:
        for outcome in pool.run(tasks):
            if not outcome.failure:
                key = outcome.task.model, outcome.task.arguments[0]
                runs.setdefault(key, []).append(outcome.value)
        broken = dict(pool.broken)
    return [
        Profile(contract.name, failure=broken[index])
        if index in broken
        else summarize(
            contract.name,
            with_known_shapes(read_graph(contract.path)),
            runs={threads: runs[index, threads] for threads in num_threads},
        )
        for index, contract in enumerate(contracts)
    ]


def summarize(
    name: str, graph: Graph, *, runs: dict[int, list[tuple[list[Event], int]]]
) -> Profile:
    """Finds the fastest time of each kernel over the invokes, and its operator in the file.

    Args:
        name: for tables.
        graph: the file.
        runs: for each thread count, the events and the microseconds of each invoke.
    """
    order = [(event.tag, event.delegated, event.node) for event in next(iter(runs.values()))[0][0]]
    for repeats in runs.values():
        for events, _ in repeats:
            if [(event.tag, event.delegated, event.node) for event in events] != order:
                return Profile(name, failure="the operators of two invokes differ")
    events = next(iter(runs.values()))[0][0]
    positions = match_kernels(graph, events)
    fastest_us = {
        threads: np.min([[event.elapsed_us for event in e] for e, _ in repeats], axis=0)
        for threads, repeats in runs.items()
    }
    counts = multiply_adds(graph)
    operators = tuple(
        _operator_time(
            graph,
            event,
            position=position,
            counts=counts,
            ms={threads: float(times[number]) / 1e3 for threads, times in fastest_us.items()},
        )
        for number, (event, position) in enumerate(zip(events, positions, strict=True))
    )
    builtin = {event.node for event in events if not event.delegated}
    parts = delegate_partitions(graph, builtin)
    return Profile(
        name,
        operators,
        silent=tuple(
            f"{operator.kind} {layer_name(graph, operator)}"
            for operator in graph.operators
            if operator.position not in positions
        ),
        partitions=len(parts),
        delegated=sum(map(len, parts)),
        whole_ms={
            threads: min(whole for _, whole in repeats) / 1e3 for threads, repeats in runs.items()
        },
    )


def _operator_time(
    graph: Graph,
    event: Event,
    *,
    position: int | None,
    counts: Sequence[int],
    ms: dict[int, float],
) -> OperatorTime:
    kernel = event.tag if event.delegated else "builtin"
    if position is None:
        return OperatorTime(None, "", layer="", kernel=kernel, multiply_adds=0, ms=ms)
    operator = graph.operators[position]
    layer = layer_name(graph, operator)
    return OperatorTime(
        position, operator.kind, layer=layer, kernel=kernel, multiply_adds=counts[position], ms=ms
    )


def layer_name(graph: Graph, operator: Operator) -> str:
    """Returns the layer of an operator: its output's name without the TensorFlow operation.

    "net/quant_conv_relu/Relu6;net/quant_conv/Conv2D1" becomes "net/conv_relu", so that a float file
    and a quantization-aware one of the same network have the same layer names.

    Args:
        graph: the file.
        operator: of the file.
    """
    whole = graph.tensors[operator.outputs[0]].name.split(";")[0]
    parts = [part.removeprefix("quant_") for part in whole.split("/")]
    return "/".join(parts[:-1] or parts)


def pair_operators(first: Profile, second: Profile) -> list[tuple[OperatorTime, OperatorTime]]:
    """Pairs operators of two files by layer name and kind, in order.

    The others are paired by kind and order, if both files have as many of that kind. Files that
    share fewer than half of their layer names are different networks and give no pairs.

    Args:
        first: one file.
        second: the other file.
    """
    waiting = [operator for operator in second.operators if operator.position is not None]
    pairs, left = [], []
    for operator in first.operators:
        if operator.position is None:
            continue
        key = operator.kind, operator.layer
        partner = next((o for o in waiting if (o.kind, o.layer) == key), None)
        if partner is None:
            left.append(operator)
            continue
        waiting.remove(partner)
        pairs.append((operator, partner))
    if 2 * len(pairs) < min(len(first.operators), len(second.operators)):
        return []
    for kind in {operator.kind for operator in left}:
        ours = [operator for operator in left if operator.kind == kind]
        theirs = [operator for operator in waiting if operator.kind == kind]
        if len(ours) == len(theirs):
            pairs += zip(ours, theirs, strict=True)
    return sorted(pairs, key=lambda pair: pair[0].position or 0)

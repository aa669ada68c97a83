"""Finds the delegate's partitions of a file, and the kernel of each operator.

XNNPACK takes the operators that it has kernels for. The operators that it leaves to the runtime's
builtin kernels cut the graph into partitions, and every cut moves tensors between the two. Inside a
partition XNNPACK numbers its own nodes and does not know the file's names, so kernels are matched
with the file's operators by order and kind.
"""

from tflite_tools.benchmarking.native import Event
from tflite_tools.flatbuffer.graph import Graph, Operator

_KERNELS = {
    "CONV_2D": ("Convolution", "Fully Connected"),
    "DEPTHWISE_CONV_2D": ("Convolution",),
    "FULLY_CONNECTED": ("Fully Connected",),
    "TRANSPOSE_CONV": ("Deconvolution",),
    "BATCH_MATMUL": ("Batch Matrix Multiply",),
    "ADD": ("Add",),
    "SUB": ("Subtract",),
    "MUL": ("Multiply",),
    "RESIZE_BILINEAR": ("Resize Bilinear",),
    "MEAN": ("Mean", "Global Average Pooling", "Sum"),
    "AVERAGE_POOL_2D": ("Average Pooling",),
    "MAX_POOL_2D": ("Max Pooling",),
    "CONCATENATION": ("Copy", "Concatenate"),
    "QUANTIZE": ("Convert",),
    "DEQUANTIZE": ("Convert",),
    "PAD": ("Constant Pad",),
    "RESHAPE": ("Copy", "Reshape"),
    "SOFTMAX": ("Softmax",),
    "LOGISTIC": ("Sigmoid",),
    "HARD_SWISH": ("HardSwish", "Hardswish"),
    "PRELU": ("PReLU",),
    "TRANSPOSE": ("Transpose",),
    "DEPTH_TO_SPACE": ("Depth To Space", "Depth to Space"),
    "SPACE_TO_DEPTH": ("Space To Depth", "Space to Depth"),
}
"""Prefixes of XNNPACK's kernel names by operator. A kind that is missing here matches none, and
its kernel stays without an operator."""


def delegate_partitions(graph: Graph, builtin: set[int]) -> list[tuple[int, ...]]:
    """Returns the delegate's partitions, in the order of execution.

    The runtime takes all operators that are ready and of one side (delegate or builtin) together,
    then those of the other side, in turn.

    Args:
        graph: the file.
        builtin: positions of the operators that the delegate does not take.

    Returns:
        Positions of each partition's operators.
    """
    made = {index for operator in graph.operators for index in operator.outputs}
    ready = {-1, *(tensor.index for tensor in graph.tensors if tensor.index not in made)}
    waiting = list(graph.operators)
    parts: list[tuple[int, ...]] = []
    while waiting:
        first = next(operator for operator in waiting if set(operator.inputs) <= ready)
        side = first.position in builtin
        part = []
        for operator in list(waiting):  # the file is in an order of execution: one pass is enough
            if (operator.position in builtin) == side and set(operator.inputs) <= ready:
                part.append(operator.position)
                ready |= set(operator.outputs)
                waiting.remove(operator)
        if not side:
            parts.append(tuple(part))
    return parts


def match_kernels(graph: Graph, events: list[Event]) -> list[int | None]:
    """Returns the position in the file of each event's operator; None if no operator matches.

    Operators without an event were fused into a neighbour, computed at loading (weights that are
    dequantized once) or need no work (a reshape in place).

    Args:
        graph: the file.
        events: of one invoke.
    """
    builtin = {event.node for event in events if not event.delegated}
    parts = delegate_partitions(graph, builtin)
    positions: list[int | None] = [None if e.delegated else e.node for e in events]
    groups = _groups(events)
    if len(groups) != len(parts):
        # Another order than expected: one long list still keeps kind and order.
        parts = [tuple(sorted(position for part in parts for position in part))]
        groups = [[number for group in groups for number in group]]
    for group, part in zip(groups, parts, strict=True):
        operators = [graph.operators[position] for position in part]
        names = [events[number].tag for number in group]
        for number, operator in _align(names, operators):
            positions[group[number]] = operator.position
    return positions


def _groups(events: list[Event]) -> list[list[int]]:
    """Groups delegated events by partition, in which node numbers increase."""
    groups: list[list[int]] = []
    last = None
    for number, event in enumerate(events):
        if not event.delegated:
            last = None
            continue
        if last is None or event.node <= last:
            groups.append([])
        groups[-1].append(number)
        last = event.node
    return groups


def fits(tag: str, operator: Operator) -> bool:
    """Returns whether an XNNPACK kernel can compute an operator.

    Args:
        tag: name of the kernel.
        operator: of the file.
    """
    if operator.kind == "DEPTHWISE_CONV_2D" and "DWConv" not in tag:
        return False
    if operator.kind == "CONV_2D" and "DWConv" in tag:
        return False
    return tag.startswith(_KERNELS.get(operator.kind, ()))


def _align(names: list[str], operators: list[Operator]) -> list[tuple[int, Operator]]:
    """Returns the longest common subsequence of kernels and operators that match."""
    rows, columns = len(names), len(operators)
    best = [[0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows - 1, -1, -1):
        for j in range(columns - 1, -1, -1):
            both = best[i + 1][j + 1] + 1 if fits(names[i], operators[j]) else 0
            best[i][j] = max(both, best[i + 1][j], best[i][j + 1])
    pairs = []
    i = j = 0
    while i < rows and j < columns:
        if fits(names[i], operators[j]) and best[i][j] == best[i + 1][j + 1] + 1:
            pairs.append((i, operators[j]))
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return pairs

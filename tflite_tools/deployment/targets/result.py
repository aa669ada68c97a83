"""The result of checking a file for an accelerator, the same for every target."""

import dataclasses

from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.multiply_adds import operator_multiply_adds


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one operator runs.

    Attributes:
        operator: of the file.
        reason: why it stays off the accelerator; "" if it is mapped.
    """

    operator: Operator
    reason: str

    @property
    def mapped(self) -> bool:
        """Whether it runs on the accelerator."""
        return not self.reason


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """One file on one target.

    Attributes:
        target: name in the registry.
        graph: the file.
        placements: one per operator, in the order of execution.
        partition: how the graph is split, one line.
        source: basis of the result, one line.
        warnings: what may fail although every operator is mapped, one line each.
        estimates: time and memory, by a name that ends in its unit.
    """

    target: str
    graph: Graph
    placements: tuple[Placement, ...]
    partition: str
    source: str
    warnings: tuple[str, ...] = ()
    estimates: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def left_off(self) -> list[Placement]:
        """Operators that stay off the accelerator."""
        return [placement for placement in self.placements if not placement.mapped]

    @property
    def mapped_share(self) -> float:
        """Fraction of the multiply-adds of convolutions and matrix products, 0..1."""
        total = sum(operator_multiply_adds(self.graph, p.operator) for p in self.placements)
        left = sum(operator_multiply_adds(self.graph, p.operator) for p in self.left_off)
        return 1.0 - left / total if total else 0.0

    def rows(self) -> list[tuple[str, int, bool, str]]:
        """Returns (kind, count, mapped, reason) of each kind and reason, in order of appearance."""
        counts: dict[tuple[str, str], int] = {}
        for placement in self.placements:
            key = placement.operator.kind, placement.reason
            counts[key] = counts.get(key, 0) + 1
        return [(kind, count, not reason, reason) for (kind, reason), count in counts.items()]

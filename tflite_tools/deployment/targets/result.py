"""What a check of a file against an accelerator finds: the same for every target."""

import dataclasses

from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.multiply_adds import operator_multiply_adds


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one operator runs.

    Attributes:
        operator: of the file.
        reason: why it stays off the accelerator; "" for one that is mapped.
    """

    operator: Operator
    reason: str

    @property
    def mapped(self) -> bool:
        return not self.reason


@dataclasses.dataclass(frozen=True)
class TargetResult:
    """One file on one target.

    Attributes:
        target: name in the registry.
        graph: the file.
        placements: one an operator, in the order of execution.
        partition: how the graph splits, one line.
        source: what the verdict rests on, one line.
        warnings: what may go wrong although every operator is mapped, one line each.
        estimates: numbers about time and memory, by a name that ends in its unit.
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
        return [placement for placement in self.placements if not placement.mapped]

    @property
    def mapped_share(self) -> float:
        """Share of the multiply-adds of convolutions and matrix products, 0..1."""
        all_of_them = sum(operator_multiply_adds(self.graph, p.operator) for p in self.placements)
        left = sum(operator_multiply_adds(self.graph, p.operator) for p in self.left_off)
        return 1.0 - left / all_of_them if all_of_them else 0.0

    def rows(self) -> list[tuple[str, int, bool, str]]:
        """(kind, count, mapped, reason), one for each kind and reason, in order of appearance."""
        counts: dict[tuple[str, str], int] = {}
        for placement in self.placements:
            key = placement.operator.kind, placement.reason
            counts[key] = counts.get(key, 0) + 1
        return [(kind, count, not reason, reason) for (kind, reason), count in counts.items()]

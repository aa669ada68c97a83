"""What a network costs, as a polynomial of the shares of channels that its groups keep.

A layer that reads i channels and computes o costs a + b i + c o + d i o, in milliseconds or in
bytes. i and o are sums over groups (the branches of a concatenation), so a network costs

    constant + sum_g linear_g s_g + sum_gh product_gh s_g s_h,     0 < s_g <= 1

with s_g the share of the channels of group g that stay.
"""

import collections
import dataclasses
from collections.abc import Mapping

import numpy as np

from deeplab_tf.pruning.channel_groups import ChannelMap


@dataclasses.dataclass(frozen=True)
class LayerCost:
    """a + b * inputs + c * outputs + d * inputs * outputs.

    Attributes:
        constant, per_input, per_output, per_product: a, b, c and d; none is negative.
    """

    constant: float = 0.0
    per_input: float = 0.0
    per_output: float = 0.0
    per_product: float = 0.0

    def at(self, inputs: float, outputs: float) -> float:
        """Returns the cost with numbers of channels."""
        return (
            self.constant
            + self.per_input * inputs
            + self.per_output * outputs
            + self.per_product * inputs * outputs
        )

    def times(self, factor: float) -> "LayerCost":
        """Returns the cost times a factor."""
        return LayerCost(*(factor * value for value in dataclasses.astuple(self)))


Shares = Mapping[str, float]
"""{group: share of its channels}; a group that is left out keeps all."""


@dataclasses.dataclass
class Polynomial:
    """The cost of a network.

    Attributes:
        constant: what no group changes.
        linear: {group: cost times its share}.
        products: {(group, group) in alphabetical order: cost times both shares}.
    """

    constant: float = 0.0
    linear: dict[str, float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )
    products: dict[tuple[str, str], float] = dataclasses.field(
        default_factory=lambda: collections.defaultdict(float)
    )

    def add(self, cost: LayerCost, *, inputs: "Channels", outputs: "Channels") -> None:
        """Adds a layer.

        Args:
            cost: of the layer.
            inputs: the channels that it reads.
            outputs: the channels that it computes.
        """
        self.constant += cost.at(inputs.fixed, outputs.fixed)
        for name, count in inputs.of_groups.items():
            self.linear[name] += count * (cost.per_input + cost.per_product * outputs.fixed)
        for name, count in outputs.of_groups.items():
            self.linear[name] += count * (cost.per_output + cost.per_product * inputs.fixed)
        for one, first in inputs.of_groups.items():
            for other, second in outputs.of_groups.items():
                low, high = sorted((one, other))
                self.products[low, high] += cost.per_product * first * second

    def at(self, shares: Shares) -> float:
        """Returns the cost of the network with some shares."""
        total = self.constant
        total += sum(value * shares.get(name, 1.0) for name, value in self.linear.items())
        total += sum(
            value * shares.get(one, 1.0) * shares.get(other, 1.0)
            for (one, other), value in self.products.items()
        )
        return total


@dataclasses.dataclass(frozen=True)
class Channels:
    """Channels of a tensor.

    Attributes:
        fixed: how many no group can lose.
        of_groups: {group: how many are of it}.
    """

    fixed: int
    of_groups: dict[str, int]

    @classmethod
    def of(cls, ids: np.ndarray, channels: ChannelMap) -> "Channels":
        """Counts the channels of a tensor.

        Args:
            ids: of the tensor's channels.
            channels: of the network.
        """
        owners = channels.group_of()
        found = collections.Counter(owners.get(channel, "") for channel in ids.tolist())
        fixed = found.pop("", 0)
        return cls(fixed, dict(found))

    @property
    def count(self) -> int:
        """All of them."""
        return self.fixed + sum(self.of_groups.values())

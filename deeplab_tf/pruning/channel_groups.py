"""Finds which channels of a network can only be removed together.

Every channel of every tensor gets an id. An operator that computes channel by channel passes ids
on (a depthwise convolution, an activation, a resize), an addition makes the ids of its inputs
equal, a concatenation puts them side by side, and a convolution or dense layer starts new ones.
Removing a channel removes its id from every tensor that holds it. So the expansion of an inverted
residual block is a group of its own, all summands of a residual stage are one group, and each
branch in front of a concatenation is one.

An operator that mixes channels without a kernel (softmax, a reshape of pixels into channels, a
product of matrices) and the outputs keep their channels.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key, output_channels
from deeplab_tf.graph.network import HIDDEN_LINEAR, IDENTITY, RESIZE, NetworkGraph, Node

_CHANNEL_BY_CHANNEL = (
    *(IDENTITY, RESIZE, "aligned_resizing", "batch_norm", "relu", "leaky_relu", "prelu"),
    *("activation", "hard_swish", "clip", "channel_limit", "average_pool2d", "max_pool2d"),
    *("global_average_pool2d", "up_sampling2d", "zero_padding2d", "cropping2d", "pool_argmax"),
)
_OF_EQUAL_CHANNELS = ("add", "subtract", "multiply", "maximum", "minimum", "max_unpool")
_ELEMENT_BY_ELEMENT = (
    *("divide", "rsqrt", "squared_difference", "exponential", "logarithm", "square_root"),
    *("absolute", "square", "floor", "ceiling", "sine", "cosine", "power", "gelu_tanh"),
)
"""Tensor functions that compute channel by channel."""


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels of which any may be removed, from the same nodes.

    Attributes:
        name: of the first layer that computes them.
        channels: their ids.
        producers: nodes with a kernel that compute them, in the order of execution.
        consumers: nodes with a kernel whose kernels mix them, in the order of execution.
    """

    name: str
    channels: tuple[int, ...]
    producers: tuple[str, ...]
    consumers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class ChannelMap:
    """The channels of a network.

    Attributes:
        ids: {node or input: id of each channel of its value}, int64 [channels].
        groups: that can be pruned, in the order of their first producers.
        fixed: {layer with a kernel: why its channels stay}.
    """

    ids: dict[str, np.ndarray]
    groups: tuple[ChannelGroup, ...]
    fixed: dict[str, str]

    def read_by(self, node: Node) -> np.ndarray:
        """Returns the ids of the channels that a node with one input reads."""
        return self.ids[node.inputs[0]]

    def group_of(self) -> dict[int, str]:
        """Returns {id: name of its group}; ids that stay are left out."""
        return {channel: group.name for group in self.groups for channel in group.channels}


def layer_name(node: str) -> str:
    """Returns the name of the layer that a node belongs to: "stem" of "stem_linear"."""
    return node.removesuffix(HIDDEN_LINEAR)


def mixes_channels(node: Node) -> bool:
    """Returns whether every output channel of a node reads every input channel by a kernel."""
    whole = int(node.attributes.get("groups", 1)) == 1
    return node.kind in WITH_KERNEL and node.kind != "depthwise_conv2d" and whole


def find_channels(description: NetworkGraph, arrays: dict[str, np.ndarray]) -> ChannelMap:
    """Finds the groups of channels of a network.

    Args:
        description: the network.
        arrays: its weights.

    Returns:
        The ids of all channels, and the groups that can be pruned.
    """
    finder = _Finder(description, arrays)
    for node in description.nodes:
        finder.add(node)
    for name in description.outputs:
        finder.fix(finder.ids[name], "the network's output")
    return finder.result()


class _Finder:
    """Walks through a network and joins ids (union-find)."""

    def __init__(self, description: NetworkGraph, arrays: dict[str, np.ndarray]) -> None:
        self._description, self._arrays = description, arrays
        layers = build_model(description, all_outputs=True).layers
        self._shapes = {layer.name: tuple(layer.output.shape[1:]) for layer in layers}
        self._shapes[description.input_name] = description.input_shape
        self._parent: list[int] = []
        self._reasons: dict[int, str] = {}
        self.ids: dict[str, np.ndarray] = {}
        image = self._new(description.input_shape[-1])
        self.ids[description.input_name] = image
        self.fix(image, "the network's input")

    def _new(self, count: int) -> np.ndarray:
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def _root(self, channel: int) -> int:
        while self._parent[channel] != channel:
            self._parent[channel] = self._parent[self._parent[channel]]
            channel = self._parent[channel]
        return channel

    def fix(self, ids: np.ndarray, reason: str) -> None:
        """Keeps channels in the network."""
        for channel in ids:
            self._reasons.setdefault(int(channel), reason)

    def _join(self, first: np.ndarray, second: np.ndarray) -> None:
        for one, other in zip(first, second, strict=True):
            roots = self._root(int(one)), self._root(int(other))
            self._parent[max(roots)] = min(roots)

    def add(self, node: Node) -> None:
        """Gives the channels of a node's value their ids."""
        self._shapes.setdefault(node.name, self._shapes.get(node.inputs[0], ()))  # an identity
        inputs = [self.ids[name] for name in node.inputs]
        ids = self._ids(node, inputs)
        if ids is None:
            for own in inputs:
                self.fix(own, f"{layer_name(node.name)} ({node.kind}) needs all channels")
            ids = self._new(self._shapes[node.name][-1] if self._shapes[node.name] else 1)
            self.fix(ids, f"computed by {layer_name(node.name)} ({node.kind})")
        self.ids[node.name] = ids

    def _ids(self, node: Node, inputs: list[np.ndarray]) -> np.ndarray | None:
        """Returns the ids of a node's channels; None where it needs all channels of its inputs."""
        if "dtype" in node.attributes and node.attributes["dtype"] == "float64":
            return None  # simulates an integer kernel with constants of each channel
        if node.kind == "depthwise_conv2d":
            return np.repeat(inputs[0], self._arrays[kernel_key(node)].shape[3])
        if mixes_channels(node):
            return self._new(output_channels(node, self._arrays[kernel_key(node)]))
        if node.kind in _OF_EQUAL_CHANNELS:
            return self._joined(inputs)
        if node.kind == "concatenate":
            ranks = {len(self._shapes[name]) for name in node.inputs}
            last = node.attributes.get("axis", -1) in (-1, *ranks)
            return np.concatenate(inputs) if last else self._joined(inputs)
        if node.kind == "tensor_function":
            known = node.attributes["function"] in _ELEMENT_BY_ELEMENT
            constant = any(node.attributes.get("constants", ()))
            return self._joined(inputs) if known and not constant else None
        return inputs[0] if self._passes(node) else None

    def _joined(self, inputs: Sequence[np.ndarray]) -> np.ndarray | None:
        """Joins the channels of several inputs; a single channel stays as it is."""
        wide = [ids for ids in inputs if len(ids) > 1] or list(inputs[:1])
        if len({len(ids) for ids in wide}) > 1:
            return None
        for ids in wide[1:]:
            self._join(wide[0], ids)
        for ids in inputs:
            if len(ids) < len(wide[0]):
                self.fix(ids, "one channel for all of another tensor")
        return wide[0]

    def _passes(self, node: Node) -> bool:
        """Returns whether a node with one input computes channel by channel."""
        attributes = node.attributes
        before, after = self._shapes[node.inputs[0]], self._shapes[node.name]
        if node.kind == "prelu":
            alpha = self._arrays[f"{node.name}/alpha"]
            return alpha.shape[-1] == 1 or alpha.size == alpha.shape[-1]
        if node.kind in _CHANNEL_BY_CHANNEL:
            return True
        if node.kind == "reshape":
            return len(after) > 0 and before[-1] == after[-1]
        if node.kind in ("reduce_mean", "reduce"):
            return not {-1, len(before)} & set(attributes["axes"])
        if node.kind == "elementwise_constant":
            return tuple(attributes["shape"][:-1]) == (1,) * (len(attributes["shape"]) - 1)
        if node.kind == "rescaling":
            return not any(isinstance(attributes.get(k), list) for k in ("scale", "offset"))
        if node.kind == "padding":
            return len(attributes["paddings"]) == len(before) and not any(
                attributes["paddings"][-1]
            )
        if node.kind == "strided_slice":
            slices, dropped = attributes["slices"], attributes.get("dropped", ())
            return len(slices) < len(before) and not dropped
        return False

    def result(self) -> ChannelMap:
        """Returns the ids with one id for joined channels, and the groups."""
        roots = np.array([self._root(channel) for channel in range(len(self._parent))])
        reasons: dict[int, str] = {}
        for channel, reason in self._reasons.items():
            reasons.setdefault(int(roots[channel]), reason)
        ids = {name: roots[own] for name, own in self.ids.items()}
        producers: dict[int, list[str]] = collections.defaultdict(list)
        consumers: dict[int, list[str]] = collections.defaultdict(list)
        fixed: dict[str, str] = {}
        for node in self._description.nodes:
            if not mixes_channels(node):
                continue
            for channel in dict.fromkeys(ids[node.name].tolist()):
                producers[channel].append(node.name)
                if channel in reasons:
                    fixed.setdefault(layer_name(node.name), reasons[channel])
            for channel in dict.fromkeys(ids[node.inputs[0]].tolist()):
                consumers[channel].append(node.name)
        together: dict[tuple, list[int]] = collections.defaultdict(list)
        for channel, names in producers.items():
            if channel not in reasons and consumers[channel]:
                together[tuple(names), tuple(consumers[channel])].append(channel)
        groups = [
            ChannelGroup(layer_name(made[0]), tuple(channels), made, read)
            for (made, read), channels in together.items()
        ]
        return ChannelMap(ids, _with_different_names(groups), fixed)


def _with_different_names(groups: list[ChannelGroup]) -> tuple[ChannelGroup, ...]:
    """Numbers groups of the same producer, whose channels are read by different layers."""
    seen: collections.Counter[str] = collections.Counter()
    named = []
    for group in groups:
        seen[group.name] += 1
        number = seen[group.name]
        name = group.name if number == 1 else f"{group.name}.{number}"
        named.append(dataclasses.replace(group, name=name))
    return tuple(named)

"""Cross-layer equalization: makes the channel ranges of neighbouring kernels equal.

Nagel et al. 2019, Data-Free Quantization, arXiv:1906.04721, section 4.1. For a first layer with
kernel W1 and bias b1, a ReLU-like function f and a second layer with kernel W2, any s > 0 per
channel leaves the function unchanged:

    W2 f(W1 x + b1) = (W2 s) f(W1 x / s + b1 / s),   f(s x) = s f(x)

and s = r1 / sqrt(r1 r2), with r the largest weight of the channel, makes both ranges equal.
A limit of 6 does not scale with its input: f'(x) = min(relu(x), 6 / s), one limit per channel.
"""

import dataclasses
import enum

import numpy as np

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.kernels import (
    WITH_KERNEL,
    along_inputs,
    along_outputs,
    bias_key,
    input_channels,
    kernel_key,
    largest_of_inputs,
    largest_of_outputs,
    output_channels,
)
from deeplab_tf.graph.network import IDENTITY, NetworkGraph, Node
from deeplab_tf.metrics.signal_to_noise import snr_db

SMALLEST_RANGE = 1e-8
"""A channel whose weights are below this is dead and stays unchanged."""
LARGEST_STEP = 1e6
"""Largest factor that a channel is scaled by in one step, to prevent overflow."""


class Relu6(enum.Enum):
    """Treatment of a ReLU6 between two equalized layers."""

    EXACT = "exact"
    """One limit per channel, 6 / s: the same function, with one more operator in the file."""
    RELU = "relu"
    """ReLU without a limit: fewer operators, but another function where values exceeded 6. This
    applies to ReLU6 only, which fuses; other limits are separate operators anyway and become one
    limit per channel."""
    SKIP = "skip"
    """Such pairs are not equalized."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two layers whose kernels can share a scale.

    Attributes:
        first: name of the first node with a kernel.
        second: name of the second node with a kernel.
        between: names of the nodes between them, in order.
    """

    first: str
    second: str
    between: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Equalization:
    """Result of equalization.

    Attributes:
        description: the network.
        arrays: its weights.
        pairs: pairs that were equalized.
        scales: {first layer: s of each channel, product over all rounds}, float64 [channels].
        iterations: rounds over all pairs until convergence.
        limits: ReLU6 nodes that became one limit per channel.
        replaced: ReLU6 nodes that became ReLU.
        skipped: "layer: reason" of layers with kernels whose outputs were not scaled.
    """

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    pairs: tuple[Pair, ...]
    scales: dict[str, np.ndarray]
    iterations: int
    limits: tuple[str, ...]
    replaced: tuple[str, ...]
    skipped: tuple[str, ...]


def find_pairs(description: NetworkGraph, relu6: Relu6) -> tuple[list[Pair], list[str]]:
    """Finds pairs of layers connected by values with one reader and functions that scale.

    Residual adds, concatenations, resizes and outputs end a chain.

    Args:
        description: a network without batch norms.
        relu6: treatment of ReLU6.

    Returns:
        The pairs in the order of execution, and "layer: reason" for the other layers.
    """
    pairs, skipped = [], []
    for node in description.nodes:
        if node.kind not in WITH_KERNEL:
            continue
        found = _pair_from(description, node, relu6=relu6)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            skipped.append(f"{node.name}: {found}")
    return pairs, skipped


def _pair_from(description: NetworkGraph, first: Node, *, relu6: Relu6) -> "Pair | str":
    """Returns the pair that starts with a layer, or the reason why there is none."""
    between: list[str] = []
    current = first
    while True:
        follower = description.only_consumer(current.name)
        if follower is None:
            readers = len(description.consumers(current.name))
            return f"{readers} layers read it" if readers else "it is the output"
        if follower.kind in WITH_KERNEL:
            if int(follower.attributes.get("groups", 1)) != 1:
                return f"{follower.name} is a grouped convolution"
            return Pair(first.name, follower.name, between=tuple(between))
        problem = _obstacle(follower, relu6)
        if problem:
            return problem
        between.append(follower.name)
        current = follower


def _obstacle(node: Node, relu6: Relu6) -> str:
    """Returns why a positive scale does not commute with a node; empty if it does."""
    if node.kind in (IDENTITY, "zero_padding2d", "cropping2d", "max_pool2d", "average_pool2d"):
        return ""
    if node.kind == "global_average_pool2d":
        return ""
    if node.kind == "channel_limit":
        return ""
    if node.kind in ("relu", "leaky_relu"):
        limit = node.attributes.get("max_value")
        if node.attributes.get("threshold") or (limit is not None and node.kind != "relu"):
            return f"{node.name} has a threshold"
        # One limit per channel has no slope below 0.
        if limit is not None and node.attributes.get("negative_slope"):
            return f"{node.name} has a limit and a slope"
        if limit is not None and relu6 is Relu6.SKIP:
            return f"{node.name} is clipped at {limit:g}"
        return ""
    return f"{node.name} is {node.kind}"


def equalize(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    relu6: Relu6 = Relu6.EXACT,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> Equalization:
    """Equalizes all pairs repeatedly until no scale changes by more than `tolerance`.

    Args:
        description: a network without batch norms after its convolutions
            (`fold_batch_norm.fold_batch_norms`); a remaining batch norm ends a chain.
        arrays: its weights.
        relu6: treatment of ReLU6.
        tolerance: largest |s - 1| of the last round.
        max_iterations: largest number of rounds.

    Returns:
        The equalized network and what was changed.

    Raises:
        ValueError: a kernel contains NaN or infinity.
    """
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    _check_finite(by_name, arrays)
    pairs, skipped = find_pairs(description, relu6)
    pairs, skipped = _with_matching_channels(pairs, skipped, by_name=by_name, arrays=arrays)
    scales = {
        pair.first: np.ones(
            output_channels(by_name[pair.first], arrays[kernel_key(by_name[pair.first])])
        )
        for pair in pairs
    }
    iterations = 0
    while pairs and iterations < max_iterations:
        iterations += 1
        largest_change = 0.0
        for pair in pairs:
            step = _equalize_pair(by_name[pair.first], by_name[pair.second], arrays=arrays)
            scales[pair.first] *= step
            largest_change = max(largest_change, float(np.abs(step - 1).max()))
        if largest_change <= tolerance:
            break
    description, limits, replaced = _with_limits(
        description, arrays, pairs=pairs, scales=scales, relu6=relu6
    )
    arrays = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
    return Equalization(
        description,
        arrays,
        pairs=tuple(pairs),
        scales=scales,
        iterations=iterations,
        limits=limits,
        replaced=replaced,
        skipped=tuple(skipped),
    )


@dataclasses.dataclass(frozen=True)
class ReplacementCost:
    """Effect of replacing ReLU6 by ReLU on the output of the float network.

    Attributes:
        snr_db: 10 log10(sum before^2 / sum (before - after)^2); infinite without a difference.
        agreement: fraction of positions with the same arg max; None for a single channel.
    """

    snr_db: float
    agreement: float | None


def measure_replacement(
    before: tuple[NetworkGraph, dict[str, np.ndarray]],
    after: tuple[NetworkGraph, dict[str, np.ndarray]],
    *,
    batches: list[np.ndarray],
) -> ReplacementCost:
    """Compares the outputs of two float networks on images.

    Args:
        before: (description, arrays) with ReLU6.
        after: (description, arrays) without ReLU6.
        batches: float32 [batch, height, width, channels], normalized.

    Returns:
        The differences.
    """
    signal = noise = 0.0
    equal = []
    executors = [Executor(*network) for network in (before, after)]
    for batch in batches:
        expected, changed = (np.asarray(executor.run(batch)) for executor in executors)
        signal += float(np.square(expected, dtype=np.float64).sum())
        noise += float(np.square(expected - changed, dtype=np.float64).sum())
        equal.append((expected.argmax(-1) == changed.argmax(-1)).ravel())
    has_classes = expected.shape[-1] > 1
    return ReplacementCost(
        snr_db(signal, noise), float(np.concatenate(equal).mean()) if has_classes else None
    )


def _check_finite(by_name: dict[str, Node], arrays: dict[str, np.ndarray]) -> None:
    for key, value in arrays.items():
        if key.rpartition("/")[0] in by_name and not np.isfinite(value).all():
            raise ValueError(f"{key} contains NaN or infinity; the training diverged")


def _with_matching_channels(
    pairs: list[Pair],
    skipped: list[str],
    *,
    by_name: dict[str, Node],
    arrays: dict[str, np.ndarray],
) -> tuple[list[Pair], list[str]]:
    """Skips pairs whose channels do not match one to one (a reshape in a dense head)."""
    kept = []
    for pair in pairs:
        first, second = by_name[pair.first], by_name[pair.second]
        outputs = output_channels(first, arrays[kernel_key(first)])
        inputs = input_channels(second, arrays[kernel_key(second)])
        if outputs == inputs:
            kept.append(pair)
        else:
            skipped.append(f"{pair.first}: has {outputs} channels, {pair.second} takes {inputs}")
    return kept, skipped


def _equalize_pair(first: Node, second: Node, *, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Equalizes one pair once, in place in `arrays`, and returns s, float64 [channels]."""
    kernel1, kernel2 = (arrays[kernel_key(node)].astype(np.float64) for node in (first, second))
    range1, range2 = largest_of_outputs(first, kernel1), largest_of_inputs(second, kernel2)
    alive = (range1 > SMALLEST_RANGE) & (range2 > SMALLEST_RANGE)
    s = np.ones_like(range1)
    s[alive] = np.clip(np.sqrt(range1[alive] / range2[alive]), 1 / LARGEST_STEP, LARGEST_STEP)
    arrays[kernel_key(first)] = kernel1 / along_outputs(first, kernel1, values=s)
    if bias_key(first) in arrays:
        arrays[bias_key(first)] = arrays[bias_key(first)] / s
    arrays[kernel_key(second)] = kernel2 * along_inputs(second, s)
    return s


def _with_limits(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    pairs: list[Pair],
    scales: dict[str, np.ndarray],
    relu6: Relu6,
) -> tuple[NetworkGraph, tuple[str, ...], tuple[str, ...]]:
    """Replaces ReLU6 nodes of the pairs by one limit per channel, or by ReLU.

    Args:
        description: the network.
        arrays: its weights; the limits are added.
        pairs: the equalized pairs.
        scales: s of each channel of the first layers.
        relu6: treatment of ReLU6.

    Returns:
        The network, the nodes that became one limit per channel, and those that became ReLU.
    """
    changed: dict[str, Node] = {}
    limits, replaced = [], []
    by_name = {node.name: node for node in description.nodes}
    for pair in pairs:
        for name in pair.between:
            node = by_name[name]
            if node.kind == "channel_limit":
                arrays[f"{name}/limit"] = arrays[f"{name}/limit"] / scales[pair.first]
            limit = node.attributes.get("max_value")
            if node.kind != "relu" or limit is None:
                continue
            if relu6 is Relu6.RELU and limit == 6:
                replaced.append(name)
                attributes = {k: v for k, v in node.attributes.items() if k != "max_value"}
                changed[name] = dataclasses.replace(node, attributes=attributes)
            else:
                limits.append(name)
                channels = len(scales[pair.first])
                changed[name] = Node(
                    name, "channel_limit", inputs=node.inputs, attributes={"channels": channels}
                )
                arrays[f"{name}/limit"] = limit / scales[pair.first]
    nodes = tuple(changed.get(node.name, node) for node in description.nodes)
    return dataclasses.replace(description, nodes=nodes), tuple(limits), tuple(replaced)

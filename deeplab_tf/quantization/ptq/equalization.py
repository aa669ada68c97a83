"""Cross-layer equalization: the channels of neighbouring kernels get ranges that fit one scale.

Nagel et al. 2019, data-free quantization, arXiv:1906.04721, section 4.1. For a first layer with
kernel W1 and bias b1, a ReLU-like function f and a second layer with kernel W2, any s > 0 a
channel leaves the function as it is:

    W2 f(W1 x + b1) = (W2 s) f(W1 x / s + b1 / s),   f(s x) = s f(x)

and s = r1 / sqrt(r1 r2), with r the largest weight of the channel, makes both ranges equal.
A clip at 6 does not scale with its input: f'(x) = min(relu(x), 6 / s), one limit a channel.
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
from deeplab_tf.graph.network import IDENTITY, NetworkDescription, Node
from deeplab_tf.metrics.signal_to_noise import snr_db

SMALLEST_RANGE = 1e-8
"""A channel whose weights are below this is dead: it is left as it is."""
LARGEST_STEP = 1e6
"""No channel is scaled by more than this, so that nothing overflows."""


class Relu6(enum.Enum):
    """What becomes of a ReLU6 between two equalized layers."""

    EXACT = "exact"
    """One limit a channel, 6 / s: the same function, one operator more in the file."""
    RELU = "relu"
    """ReLU without a limit: fewer operators, another function where values exceeded 6. Only ReLU6
    fuses as it is; other limits are operators of their own and become one limit a channel."""
    SKIP = "skip"
    """Such pairs are left alone."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two layers whose kernels can share a scale.

    Attributes:
        first, second: names of nodes with kernels.
        between: nodes from the first to the second, in order.
    """

    first: str
    second: str
    between: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Equalization:
    """What was done.

    Attributes:
        description, arrays: the network.
        pairs: that were equalized.
        scales: {first layer: s of each channel, product over all rounds}, float64 [channels].
        iterations: rounds over all pairs until nothing changed.
        limits: ReLU6 nodes that became one limit a channel.
        replaced: ReLU6 nodes that became ReLU.
        left: "layer: why not" of layers with kernels whose outputs were left alone.
    """

    description: NetworkDescription
    arrays: dict[str, np.ndarray]
    pairs: tuple[Pair, ...]
    scales: dict[str, np.ndarray]
    iterations: int
    limits: tuple[str, ...]
    replaced: tuple[str, ...]
    left: tuple[str, ...]


def find_pairs(description: NetworkDescription, relu6: Relu6) -> tuple[list[Pair], list[str]]:
    """Pairs of layers between which every value has one reader and a function that scales.

    Residual adds, concatenations, resizes and outputs end a chain.

    Returns:
        the pairs in the order of execution, and "layer: why not" for the other layers.
    """
    pairs, left = [], []
    for node in description.nodes:
        if node.kind not in WITH_KERNEL:
            continue
        found = _pair_from(description, node, relu6=relu6)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            left.append(f"{node.name}: {found}")
    return pairs, left


def _pair_from(description: NetworkDescription, first: Node, *, relu6: Relu6) -> "Pair | str":
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
        problem = _why_not_through(follower, relu6)
        if problem:
            return problem
        between.append(follower.name)
        current = follower


def _why_not_through(node: Node, relu6: Relu6) -> str:
    """Why a positive scale does not pass a node; empty where it does."""
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
        # One limit a channel has no slope below 0.
        if limit is not None and node.attributes.get("negative_slope"):
            return f"{node.name} has a limit and a slope"
        if limit is not None and relu6 is Relu6.SKIP:
            return f"{node.name} is clipped at {limit:g}"
        return ""
    return f"{node.name} is {node.kind}"


def equalize(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    relu6: Relu6 = Relu6.EXACT,
    tolerance: float = 1e-3,
    max_iterations: int = 100,
) -> Equalization:
    """Equalizes all pairs, round after round, until no scale moves by more than `tolerance`.

    Args:
        description, arrays: a network without batch norms behind its convolutions
            (`folding.fold_batch_norms`); one that is left ends a chain.
        relu6: what becomes of ReLU6.
        tolerance: largest |s - 1| of the last round.
        max_iterations: rounds at most.

    Raises:
        ValueError: a kernel holds NaN or infinity.
    """
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    _check_finite(by_name, arrays)
    pairs, left = find_pairs(description, relu6)
    pairs, left = _fitting(pairs, left, by_name=by_name, arrays=arrays)
    scales = {
        pair.first: np.ones(
            output_channels(by_name[pair.first], arrays[kernel_key(by_name[pair.first])])
        )
        for pair in pairs
    }
    iterations = 0
    while pairs and iterations < max_iterations:
        iterations += 1
        moved = 0.0
        for pair in pairs:
            step = _step(by_name[pair.first], by_name[pair.second], arrays=arrays)
            scales[pair.first] *= step
            moved = max(moved, float(np.abs(step - 1).max()))
        if moved <= tolerance:
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
        left=tuple(left),
    )


@dataclasses.dataclass(frozen=True)
class ReplacementCost:
    """What ReLU in place of ReLU6 does to the float network's output.

    Attributes:
        snr_db: 10 log10(sum before^2 / sum (before - behind)^2); infinite without a difference.
        agreement: fraction of positions with the same arg max; None of a single channel.
    """

    snr_db: float
    agreement: float | None


def measure_replacement(before, behind, *, batches: list[np.ndarray]) -> ReplacementCost:
    """Compares two float networks on photos.

    Args:
        before, behind: (description, arrays) with ReLU6 and without.
        batches: float32 [batch, height, width, channels], normalized.
    """
    signal = noise = 0.0
    equal = []
    executors = [Executor(*network) for network in (before, behind)]
    for batch in batches:
        expected, found = (np.asarray(executor.run(batch)) for executor in executors)
        signal += float(np.square(expected, dtype=np.float64).sum())
        noise += float(np.square(expected - found, dtype=np.float64).sum())
        equal.append((expected.argmax(-1) == found.argmax(-1)).ravel())
    scores = expected.shape[-1] > 1
    return ReplacementCost(
        snr_db(signal, noise), float(np.concatenate(equal).mean()) if scores else None
    )


def _check_finite(by_name: dict[str, Node], arrays: dict[str, np.ndarray]) -> None:
    for key, value in arrays.items():
        if key.rpartition("/")[0] in by_name and not np.isfinite(value).all():
            raise ValueError(f"{key} holds NaN or infinity; the training diverged")


def _fitting(pairs, left, *, by_name, arrays):
    """Leaves out pairs whose channels do not match one to one (a reshape in a dense head)."""
    kept = []
    for pair in pairs:
        first, second = by_name[pair.first], by_name[pair.second]
        given = output_channels(first, arrays[kernel_key(first)])
        taken = input_channels(second, arrays[kernel_key(second)])
        if given == taken:
            kept.append(pair)
        else:
            left.append(f"{pair.first}: gives {given} channels, {pair.second} takes {taken}")
    return kept, left


def _step(first: Node, second: Node, *, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """One equalization of one pair; `arrays` changed in place. Returns s, float64 [channels]."""
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


def _with_limits(description, arrays, *, pairs, scales, relu6):
    """ReLU6 nodes of the pairs get one limit a channel, or none; `arrays` gains the limits."""
    changed, limits, replaced = {}, [], []
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

"""Fits the kernels of a pruned network to what the unpruned one computes, layer by layer.

    minimize  E |Y - X W - b|^2 + ridge |W - W0|^2        over W and b

X is what the layer reads in the pruned network, whose earlier layers are fitted already, Y its
output in the unpruned network on the same images, W0 its kernel so far (He et al. 2017, channel
pruning, arXiv:1707.06168). The last layer in front of an addition also takes over the error of the
other summand: Y + other - other of the pruned network. No labels and no gradients are needed.
"""

from collections.abc import Collection, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.graph.executor import Executor, Run
from deeplab_tf.graph.kernels import bias_key, kernel_key
from deeplab_tf.graph.network import IDENTITY, NetworkGraph, Node
from deeplab_tf.pruning.channel_groups import ChannelMap, mixes_channels
from deeplab_tf.pruning.layer_inputs import Moments, as_kernel, as_matrix, evenly, input_rows
from deeplab_tf.pruning.selection import ridge_of

Network = tuple[NetworkGraph, dict[str, np.ndarray]]
"""A graph and its "layer/weight" arrays."""


def reconstruct(
    original: Network,
    pruned: Network,
    *,
    channels: ChannelMap,
    removed: Collection[int],
    images: Sequence[np.ndarray],
) -> dict[str, np.ndarray]:
    """Fits the kernels and biases of a pruned network in the order of execution.

    Layers in front of the first removed channel stay as they are. Depthwise and transposed
    convolutions get another bias only.

    Args:
        original: the network before channels were removed, with biases (`removal.with_biases`).
        pruned: what `removal.remove_channels` made of it; not changed.
        channels: of the original network.
        removed: ids of the removed channels.
        images: float32 [1, height, width, channels] each, normalized.

    Returns:
        The weights of the pruned network.
    """
    description, arrays = pruned[0], dict(pruned[1])
    gone = np.array(sorted(removed), np.int64)
    kept = {name: ~np.isin(ids, gone) for name, ids in channels.ids.items()}
    changed = _after_removal(description, kept)
    executor = Executor(description, arrays)
    exact, smaller = Executor(*original).start(images), executor.start(images)
    for before, node in zip(original[0].nodes, description.nodes, strict=True):
        exact.step(before)
        if node.name in changed and kernel_key(node) in arrays:
            target = _target(node, exact, smaller, description=description, kept=kept)
            arrays |= _fitted(node, target, smaller, executor=executor, arrays=arrays)
            executor.set_weights_of(node, arrays)
        smaller.step(node)
    return arrays


def _after_removal(description: NetworkGraph, kept: dict[str, np.ndarray]) -> set[str]:
    """Returns the nodes whose input differs from the unpruned network's."""
    found: set[str] = set()
    for node in description.nodes:
        if any(name in found or not kept[name].all() for name in node.inputs):
            found.add(node.name)
    return found


def _target(
    node: Node,
    exact: Run,
    smaller: Run,
    *,
    description: NetworkGraph,
    kept: dict[str, np.ndarray],
) -> list[np.ndarray]:
    """Returns what a layer shall compute, float32 [rows, kept outputs] for each image."""
    targets = [_rows(value)[:, kept[node.name]] for value in exact.values(node.name)]
    other = _other_summand(node, description)
    if other is None:
        return targets
    try:
        pairs = zip(exact.values(other), smaller.values(other), strict=True)
        errors = [_rows(one)[:, kept[other]] - _rows(two) for one, two in pairs]
    except KeyError:  # not computed yet
        return targets
    if any(a.shape != b.shape for a, b in zip(targets, errors, strict=True)):
        return targets  # a summand that is broadcast
    return [a + b for a, b in zip(targets, errors, strict=True)]


def _other_summand(node: Node, description: NetworkGraph) -> str | None:
    """Returns the other input of the addition that alone reads a node and comes later than it."""
    order = [description.input_name, *(each.name for each in description.nodes)]
    name, follower = node.name, description.only_consumer(node.name)
    while follower is not None and follower.kind == IDENTITY:
        name, follower = follower.name, description.only_consumer(follower.name)
    if follower is None or follower.kind != "add" or len(follower.inputs) != 2:
        return None
    other = next((one for one in follower.inputs if one != name), None)
    return other if other and order.index(other) < order.index(node.name) else None


def _rows(value: tf.Tensor) -> np.ndarray:
    return np.asarray(value).reshape(-1, value.shape[-1])


def _fitted(
    node: Node,
    targets: list[np.ndarray],
    smaller: Run,
    *,
    executor: Executor,
    arrays: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns the fitted kernel and bias of a layer."""
    kernel = arrays[kernel_key(node)]
    if not mixes_channels(node) or node.kind == "conv2d_transpose":
        return _corrected_bias(node, targets, smaller, executor=executor, arrays=arrays)
    first = as_matrix(node, kernel)
    inputs = Moments(0, np.zeros(len(first)), np.zeros((len(first), len(first))))
    sums, products = np.zeros(first.shape[1]), np.zeros(first.shape)
    for index, target in enumerate(targets):
        x = evenly(input_rows(node, smaller.value(node.inputs[0], index), kernel=kernel))
        y = evenly(target).astype(np.float64)
        inputs += Moments.of(x)
        sums += y.sum(0)
        products += x.astype(np.float64).T @ y
    mean, covariance = sums / inputs.count, inputs.covariance
    mixed = products / inputs.count - np.outer(inputs.mean, mean)
    ridge = ridge_of(covariance)
    covariance[np.diag_indices_from(covariance)] += ridge
    weights = np.linalg.solve(covariance, mixed + ridge * first)
    return {
        kernel_key(node): as_kernel(node, weights, shape=kernel.shape),
        bias_key(node): (mean - inputs.mean @ weights).astype(np.float32),
    }


def _corrected_bias(
    node: Node,
    targets: list[np.ndarray],
    smaller: Run,
    *,
    executor: Executor,
    arrays: dict[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Returns the bias that gives each output its mean in the unpruned network."""
    if bias_key(node) not in arrays:
        return {}
    count, shift = 0, np.zeros(targets[0].shape[-1])
    for index, target in enumerate(targets):
        inputs = [smaller.value(name, index) for name in node.inputs]
        shift += (target - _rows(executor.compute(node, inputs))).sum(0, dtype=np.float64)
        count += len(target)
    return {bias_key(node): (arrays[bias_key(node)] + shift / count).astype(np.float32)}

"""Removes channels from a network graph and its weights."""

import dataclasses
from collections.abc import Collection

import numpy as np

from deeplab_tf.graph.kernels import bias_key, kernel_key
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.pruning.channel_groups import ChannelMap, mixes_channels

_SIZE_OF = {"conv2d": "filters", "conv2d_transpose": "filters", "dense": "units"}
"""Attribute that holds the number of output channels."""


def with_biases(
    description: NetworkGraph, arrays: dict[str, np.ndarray]
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Gives every layer that mixes channels a bias; new ones are 0.

    Args:
        description: the network.
        arrays: its weights; not changed.

    Returns:
        The network, and its arrays.
    """
    arrays, nodes = dict(arrays), []
    for node in description.nodes:
        if mixes_channels(node) and bias_key(node) not in arrays:
            axis = 2 if node.kind == "conv2d_transpose" else -1
            channels = arrays[kernel_key(node)].shape[axis]
            arrays[bias_key(node)] = np.zeros(channels, np.float32)
            node = dataclasses.replace(node, attributes=node.attributes | {"use_bias": True})
        nodes.append(node)
    return dataclasses.replace(description, nodes=tuple(nodes)), arrays


def remove_channels(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    channels: ChannelMap,
    removed: Collection[int],
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Removes channels from all tensors and kernels that hold them.

    The new network computes what the old one computes with these rows of its kernels set to 0.

    Args:
        description: the network.
        arrays: its weights; not changed.
        channels: of this network.
        removed: ids of the channels.

    Returns:
        The smaller network, and its arrays.

    Raises:
        ValueError: a tensor would have no channel left.
    """
    gone = np.array(sorted(removed), np.int64)
    kept = {name: ~np.isin(ids, gone) for name, ids in channels.ids.items()}
    arrays, nodes = dict(arrays), []
    for node in description.nodes:
        if not kept[node.name].any():
            raise ValueError(f"{node.name}: no channel would be left")
        if not all(kept[name].all() for name in (node.name, *node.inputs)):
            node = _smaller(node, arrays, kept=kept)
        nodes.append(node)
    return dataclasses.replace(description, nodes=tuple(nodes)), arrays


def _smaller(node: Node, arrays: dict[str, np.ndarray], *, kept: dict[str, np.ndarray]) -> Node:
    """Returns a node with fewer channels; changes its arrays."""
    before, after = kept[node.inputs[0]], kept[node.name]
    attributes = dict(node.attributes)
    if mixes_channels(node):
        kernel = arrays[kernel_key(node)]
        if node.kind == "conv2d_transpose":
            kernel = kernel[:, :, after][..., before]
        else:
            kernel = kernel[..., before, :][..., after]
        arrays[kernel_key(node)] = kernel
        attributes[_SIZE_OF[node.kind]] = int(after.sum())
    elif node.kind == "depthwise_conv2d":
        arrays[kernel_key(node)] = arrays[kernel_key(node)][:, :, before]
    else:
        _shrink_constants(node, arrays, after=after)
    if bias_key(node) in arrays:
        arrays[bias_key(node)] = arrays[bias_key(node)][after]
    if node.kind == "channel_limit":
        attributes["channels"] = int(after.sum())
    if node.kind == "elementwise_constant":
        attributes["shape"] = list(arrays[f"{node.name}/constant"].shape)
    if node.kind == "reshape" and attributes["target_shape"][-1] != -1:
        attributes["target_shape"] = [*attributes["target_shape"][:-1], int(after.sum())]
    return dataclasses.replace(node, attributes=attributes)


def _shrink_constants(node: Node, arrays: dict[str, np.ndarray], *, after: np.ndarray) -> None:
    """Shortens what a node stores per channel: statistics, slopes, limits, constants."""
    for key in [key for key in arrays if key.rpartition("/")[0] == node.name]:
        if arrays[key].ndim and arrays[key].shape[-1] == len(after):
            arrays[key] = arrays[key][..., after]

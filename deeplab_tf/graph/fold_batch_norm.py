"""Folds batch norms into the convolutions before them, as every converter does.

    kernel' = kernel * gamma / sqrt(variance + epsilon)
    bias'   = (bias - mean) * gamma / sqrt(variance + epsilon) + beta

Jacob et al. 2018, arXiv:1712.05877, section 3.2.
"""

import dataclasses
from collections.abc import Container

import numpy as np

from deeplab_tf.graph.kernels import (
    WITH_KERNEL,
    along_outputs,
    bias_key,
    kernel_key,
    output_channels,
)
from deeplab_tf.graph.network import NetworkGraph, Node

_DEFAULT_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Folding:
    """A network without the batch norms that could be folded.

    Attributes:
        description: the network.
        arrays: its weights.
        statistics: {convolution: (mean, standard deviation) of its output per channel}, float64
            [channels], from the offset and the scale of its batch norm.
        left: batch norms that could not be folded.
    """

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    left: tuple[str, ...]


def fold_batch_norms(description: NetworkGraph, arrays: dict[str, np.ndarray]) -> Folding:
    """Folds every batch norm that follows a convolution or dense layer directly.

    The function is unchanged except for float32 rounding; weights are computed in float64. A
    batch norm stays, and is listed in `left`, where another node reads its convolution too.

    Args:
        description: the network.
        arrays: its weights; not changed.
    """
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    statistics, left, replaced = {}, [], {}
    for norm in description.nodes:
        if norm.kind != "batch_norm":
            continue
        node = by_name.get(norm.inputs[0])
        if (
            node is None
            or node.kind not in WITH_KERNEL
            or description.only_consumer(node.name) is not norm
        ):
            left.append(norm.name)
            continue
        gamma, beta = _fold(node, norm, arrays=arrays)
        statistics[node.name] = (beta, np.abs(gamma))
        replaced[norm.name] = node.name
    nodes = tuple(
        _rewired(node, replaced, folded=statistics)
        for node in description.nodes
        if node.name not in replaced
    )
    folded = dataclasses.replace(description, nodes=nodes, **description.renamed_outputs(replaced))
    return Folding(folded, arrays, statistics=statistics, left=tuple(left))


def _rewired(node: Node, replaced: dict[str, str], *, folded: Container[str]) -> Node:
    inputs = tuple(replaced.get(name, name) for name in node.inputs)
    attributes = node.attributes | {"use_bias": True} if node.name in folded else node.attributes
    return dataclasses.replace(node, inputs=inputs, attributes=attributes)


def _fold(
    node: Node, norm: Node, *, arrays: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Folds one batch norm; changes `arrays`; returns gamma and beta, float64 [channels]."""
    kernel = arrays[kernel_key(node)].astype(np.float64)
    channels = output_channels(node, kernel)

    def take(name: str, default: float) -> np.ndarray:
        return arrays.pop(f"{norm.name}/{name}", np.full(channels, default)).astype(np.float64)

    gamma, beta = take("gamma", 1.0), take("beta", 0.0)
    mean, variance = take("moving_mean", 0.0), take("moving_variance", 1.0)
    scale = gamma / np.sqrt(variance + norm.attributes.get("epsilon", _DEFAULT_EPSILON))
    bias = arrays.get(bias_key(node), np.zeros(channels)).astype(np.float64)
    arrays[kernel_key(node)] = (kernel * along_outputs(node, kernel, values=scale)).astype(
        np.float32
    )
    arrays[bias_key(node)] = ((bias - mean) * scale + beta).astype(np.float32)
    return gamma, beta

"""Batch norms into the convolutions in front of them, as every converter does.

    kernel' = kernel * gamma / sqrt(variance + epsilon)
    bias'   = (bias - mean) * gamma / sqrt(variance + epsilon) + beta

Jacob et al. 2018, arXiv:1712.05877, section 3.2.
"""

import dataclasses

import numpy as np

from deeplab_tf.graph.kernels import (
    WITH_KERNEL,
    along_outputs,
    bias_key,
    kernel_key,
    output_channels,
)
from deeplab_tf.graph.network import NetworkDescription, Node

_DEFAULT_EPSILON = 1e-3


@dataclasses.dataclass(frozen=True)
class Folding:
    """A network without the batch norms that could be folded.

    Attributes:
        description, arrays: the network.
        statistics: {convolution: (mean, standard deviation) of each channel of its output},
            float64 [channels], as its batch norm's offset and scale say.
        left: batch norms that stand behind no convolution of their own.
    """

    description: NetworkDescription
    arrays: dict[str, np.ndarray]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    left: tuple[str, ...]


def fold_batch_norms(description: NetworkDescription, arrays: dict[str, np.ndarray]) -> Folding:
    """Folds every batch norm that follows a convolution or dense layer directly.

    The function is unchanged but for float32 rounding; computed in float64. A batch norm whose
    convolution something else reads too stays, and is named.
    """
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    statistics, left, gone = {}, [], {}
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
        gone[norm.name] = node.name
    nodes = tuple(
        _rewired(node, gone, folded=statistics)
        for node in description.nodes
        if node.name not in gone
    )
    output = gone.get(description.output_name, description.output_name)
    folded = dataclasses.replace(description, nodes=nodes, output_name=output)
    return Folding(folded, arrays, statistics=statistics, left=tuple(left))


def _rewired(node: Node, gone: dict[str, str], *, folded) -> Node:
    inputs = tuple(gone.get(name, name) for name in node.inputs)
    attributes = node.attributes | {"use_bias": True} if node.name in folded else node.attributes
    return dataclasses.replace(node, inputs=inputs, attributes=attributes)


def _fold(node: Node, norm: Node, *, arrays: dict[str, np.ndarray]):
    """Changes `arrays`; returns gamma and beta, float64 [channels]."""
    kernel = arrays[kernel_key(node)].astype(np.float64)
    channels = output_channels(node, kernel)

    def take(name: str, default: float):
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

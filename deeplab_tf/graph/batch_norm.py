"""Sets the statistics of batch norms to observed values without changing the network's function.

Networks from a `.tflite` file have their batch norms folded, which makes training unstable. A
batch norm after a convolution, with a new mean and variance, computes the same function if

    gamma' = gamma * sqrt(var' + eps) / sqrt(var + eps)
    beta'  = beta + gamma * (mean' - mean) / sqrt(var + eps)
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import last_convolution
from deeplab_tf.graph.network import CONVOLUTIONS, NetworkGraph, Node

SMALLEST_VARIANCE = 1e-6
"""Smallest variance of a channel that is not treated as constant."""
_WITH_KERNEL = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Conv2DTranspose,
)


def observe_inputs(
    model: keras.Model,
    batch_norms: Sequence[keras.layers.BatchNormalization],
    *,
    batches: Iterable[np.ndarray],
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Computes mean and variance of each batch norm's input, over all pixels of all batches.

    Args:
        model: flat Functional graph.
        batch_norms: BatchNormalization layers of the model to observe.
        batches: float32 [batch, height, width, channels] each, normalized.

    Returns:
        One (mean, variance) per batch norm, float64 [channels] each.

    Raises:
        ValueError: there are no batches.
    """
    taps = keras.Model(model.inputs, [layer.input for layer in batch_norms])
    sums: list[np.ndarray] | None = None
    squares: list[np.ndarray] = []
    count = [0] * len(batch_norms)
    for batch in batches:
        values = [np.asarray(value, np.float64) for value in taps(batch, training=False)]
        if sums is None:
            sums = [np.zeros(value.shape[-1]) for value in values]
            squares = [np.zeros(value.shape[-1]) for value in values]
        for index, value in enumerate(values):
            flat = value.reshape(-1, value.shape[-1])
            sums[index] += flat.sum(0)
            squares[index] += (flat**2).sum(0)
            count[index] += len(flat)
    if sums is None:
        raise ValueError("no images to observe batch-norm statistics on; give at least one batch")
    result = []
    for total, square, number in zip(sums, squares, count, strict=True):
        mean = total / number
        result.append((mean, np.maximum(square / number - mean**2, 0)))
    return result


def adopt_statistics(model: keras.Model, batches: Iterable[np.ndarray]) -> None:
    """Sets every batch norm's moving statistics to observed ones; the function is unchanged.

    Args:
        model: flat Functional graph with BatchNormalization layers; changed in place.
        batches: float32 [batch, height, width, channels] each, normalized.
    """
    batch_norms = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    observed = observe_inputs(model, batch_norms, batches=batches)
    for layer, (mean, variance) in zip(batch_norms, observed, strict=True):
        gamma, beta, old_mean, old_variance = (
            np.asarray(value, np.float64) for value in layer.get_weights()
        )
        old_std = np.sqrt(old_variance + layer.epsilon)
        layer.set_weights(
            [
                gamma * np.sqrt(variance + layer.epsilon) / old_std,
                beta + gamma * (mean - old_mean) / old_std,
                mean,
                variance,
            ]
        )


def normalize_kernels(model: keras.Model) -> None:
    """Scales every kernel before a batch norm so that its output has variance 1.

    A folded kernel contains the scale of the batch norm that was folded into it. Before a batch
    norm that scale does not change the function, but the gradient grows with its inverse:
    without rescaling, the first training steps destroy the smallest kernels. For a channel with
    moving variance v, kernel' = kernel / sqrt(v), mean' = mean / sqrt(v), v' = 1, and gamma is
    adjusted so that the function is unchanged.

    Args:
        model: flat Functional graph whose batch norms hold observed statistics; changed in
            place. Channels with a variance below 1e-6 are left unchanged.
    """
    for layer in model.layers:
        if not isinstance(layer, _WITH_KERNEL):
            continue
        followers = [node.outbound_layer for node in layer.outbound_nodes]
        if len(followers) != 1 or not isinstance(followers[0], keras.layers.BatchNormalization):
            continue
        gamma, beta, mean, variance = (
            np.asarray(value, np.float64) for value in followers[0].get_weights()
        )
        scale = np.where(variance > SMALLEST_VARIANCE, np.sqrt(variance), 1.0)
        epsilon = followers[0].epsilon
        new_variance = variance / scale**2
        gamma = gamma * scale * np.sqrt((new_variance + epsilon) / (variance + epsilon))
        kernel, *bias = layer.get_weights()
        layer.set_weights(
            [kernel / _along_outputs(layer, kernel, values=scale)] + [b / scale for b in bias]
        )
        followers[0].set_weights([gamma, beta, mean / scale, new_variance])


def _along_outputs(
    layer: keras.layers.Layer, kernel: np.ndarray, *, values: np.ndarray
) -> np.ndarray:
    """Reshapes values [out channels] so that they broadcast over a kernel."""
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return values.reshape(kernel.shape[2:])
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return values[:, None]
    return values


def insert_batch_norms(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    momentum: float = 0.95,
    epsilon: float = 1e-3,
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Inserts a batch norm after every convolution; the function is unchanged.

    The bias of the convolution moves to the batch norm's offset (gamma = 1, beta = bias,
    mean = 0, variance = 1 - epsilon). The convolution is renamed "<name>_conv" and the batch
    norm takes its name, so that ranges and other nodes refer to the same tensor as before.
    `adopt_statistics` then replaces mean and variance by observed ones. The last convolution,
    the classifier, gets no batch norm: the statistics of logits depend too much on the classes
    in a batch. Convolutions after a global pooling get none either: their statistics would be
    computed from one value per image.

    Args:
        description: the folded network.
        arrays: its weights.
        momentum: momentum of the new batch norms.
        epsilon: epsilon of the new batch norms.

    Returns:
        The description and the arrays of the network with batch norms.

    Raises:
        ValueError: the network has no convolution except the classifier.
    """
    excluded = {last_convolution(description).name, *_after_global_pool(description)}
    nodes, changed = [], dict(arrays)
    for node in description.nodes:
        if node.kind in CONVOLUTIONS and node.name not in excluded:
            nodes += _with_batch_norm(
                node, changed, settings={"momentum": momentum, "epsilon": epsilon}
            )
        else:
            nodes.append(node)
    if len(nodes) == len(description.nodes):
        raise ValueError("no convolution except the classifier: there is nothing to normalize")
    return dataclasses.replace(description, nodes=tuple(nodes)), changed


def _after_global_pool(description: NetworkGraph) -> set[str]:
    """Returns the nodes whose value is one pixel high and wide."""
    model = build_model(description, all_outputs=True)
    return {layer.name for layer in model.layers if tuple(layer.output.shape[1:-1]) == (1, 1)}


def _with_batch_norm(node: Node, arrays: dict[str, np.ndarray], *, settings: dict) -> list[Node]:
    """Returns the convolution without bias and its batch norm; changes `arrays` in place."""
    name = f"{node.name.removesuffix('_linear')}_conv"
    kernel = "depthwise_kernel" if node.kind == "depthwise_conv2d" else "kernel"
    weights = arrays.pop(f"{node.name}/{kernel}")
    channels = weights.shape[2] if node.kind == "conv2d_transpose" else weights.shape[3]
    if node.kind == "depthwise_conv2d":
        channels = weights.shape[2] * weights.shape[3]
    bias = arrays.pop(f"{node.name}/bias", np.zeros(channels, np.float32))
    arrays[f"{name}/{kernel}"] = weights
    ones, zeros = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    arrays |= {
        f"{node.name}/gamma": ones,
        f"{node.name}/beta": bias,
        f"{node.name}/moving_mean": zeros,
        f"{node.name}/moving_variance": ones - np.float32(settings["epsilon"]),
    }
    convolution = dataclasses.replace(
        node, name=name, attributes=node.attributes | {"use_bias": False}
    )
    return [convolution, Node(node.name, "batch_norm", inputs=(name,), attributes=settings)]

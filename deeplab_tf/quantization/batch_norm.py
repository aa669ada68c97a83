"""Putting observed statistics into batch norms, without changing what the network computes.

Networks out of a `.tflite` have their batch norms folded, which trains badly. A batch norm
behind a convolution z, with any mean and variance, computes the same as before if

    gamma' = gamma * sqrt(var' + eps) / sqrt(var + eps)
    beta'  = beta + gamma * (mean' - mean) / sqrt(var + eps)
"""

import dataclasses

import numpy as np
import tf_keras as keras

from deeplab_tf.models.imported import CONVOLUTIONS, NetworkDescription, Node, last_convolution


def observe_inputs(model: keras.Model, batch_norms, batches):
    """Mean and variance of what flows into each batch norm, over all pixels of all batches.

    Args:
        model: flat Functional graph.
        batch_norms: its BatchNormalization layers to watch.
        batches: iterable of float32 [batch, height, width, channels], normalized.

    Returns:
        a list of (mean, variance), float64 [channels] each.
    """
    taps = keras.Model(model.inputs, [layer.input for layer in batch_norms])
    sums = squares = None
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


def adopt_statistics(model: keras.Model, batches) -> None:
    """Sets every batch norm's moving statistics to what is observed, the function unchanged.

    Args:
        model: flat Functional graph with BatchNormalization layers; changed in place.
        batches: iterable of float32 [batch, height, width, channels], normalized.
    """
    batch_norms = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    observed = observe_inputs(model, batch_norms, batches)
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


def insert_batch_norms(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    momentum: float = 0.95,
    epsilon: float = 1e-3,
) -> tuple[NetworkDescription, dict[str, np.ndarray]]:
    """Puts a batch norm behind every convolution, the function unchanged.

    The convolution loses its bias to the batch norm's offset (gamma = 1, beta = bias, mean = 0,
    variance = 1 - epsilon), and is renamed "<name>_conv": the batch norm takes its name, so
    that ranges and other nodes mean the same tensor as before. `adopt_statistics` then makes
    the mean and variance true ones. The last convolution, the classifier, gets none: logits
    depend so much on which classes a batch shows that their statistics mean nothing.

    Args:
        description: the folded network.
        arrays: its weights.
        momentum, epsilon: of the new batch norms.

    Returns:
        the description and the arrays of the network with batch norms.

    Raises:
        ValueError: the network has no convolution beside the classifier.
    """
    classifier = last_convolution(description).name
    nodes, changed = [], dict(arrays)
    for node in description.nodes:
        if node.kind in CONVOLUTIONS and node.name != classifier:
            nodes += _with_batch_norm(node, changed, {"momentum": momentum, "epsilon": epsilon})
        else:
            nodes.append(node)
    if len(nodes) == len(description.nodes):
        raise ValueError("no convolution to put a batch norm behind, beside the classifier")
    return dataclasses.replace(description, nodes=tuple(nodes)), changed


def _with_batch_norm(node: Node, arrays: dict[str, np.ndarray], settings: dict) -> list[Node]:
    """The convolution without bias and its batch norm; `arrays` changed in place."""
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
    return [convolution, Node(node.name, "batch_norm", (name,), settings)]

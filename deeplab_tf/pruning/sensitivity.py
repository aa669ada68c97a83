"""Measures how the network's output reacts to a change inside: the basis of both importances.

effects      sum over pixels of E[(d output / d y)^2] for each channel of a layer's output y,
             from random projections of the output: v ~ N(0, 1), E[(d v'output / d y)^2]
Taylor       (sum over pixels of x * d loss / d x)^2 for each channel that a layer reads, the
             squared first-order change of the loss if the channel were 0 (Molchanov et al.
             2019, importance estimation for neural network pruning, arXiv:1906.10771)
"""

import functools
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.network import Node
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.pruning.channel_groups import ChannelGroup, ChannelMap


def measure_effects(
    executor: Executor,
    names: Collection[str],
    *,
    images: Sequence[np.ndarray],
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Measures the effect of a change of each channel of some nodes on the network's output.

    Args:
        executor: of the network.
        names: nodes.
        images: float32 [1, height, width, channels] each, normalized.
        seed: of the random projections.

    Returns:
        {node: effect per channel}, float64 [channels]: a change of standard deviation s at every
        pixel, independent from pixel to pixel, changes the output by effect * s^2, squared and
        summed over its values.
    """
    generator = tf.random.Generator.from_seed(seed)

    def target(output: tf.Tensor, _: int) -> tf.Tensor:
        return tf.reduce_sum(generator.normal(output.shape) * output)

    effects: dict[str, np.ndarray] = {}
    for _, gradients in _gradients(executor, names, images=images, target=target):
        for name, gradient in gradients.items():
            squares = np.square(np.asarray(gradient, np.float64))
            summed = squares.reshape(-1, squares.shape[-1]).sum(0) / len(images)
            effects[name] = effects.get(name, 0.0) + summed
    return effects


def taylor_importance(
    executor: Executor,
    channels: ChannelMap,
    *,
    images: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    alignment: Alignment = Alignment.HALF_PIXEL,
) -> dict[int, float]:
    """Computes the first-order importance of every channel that can be removed.

    Args:
        executor: of the network, which ends in logits.
        channels: of the network.
        images: float32 [1, height, width, channels] each, normalized.
        labels: uint8 [height, width] each, 255 = ignored.
        alignment: convention by which logits are resized.

    Returns:
        {channel: importance}, summed over all tensors with a kernel behind them that hold it.
    """

    def loss(output: tf.Tensor, index: int) -> tf.Tensor:
        label = tf.constant(labels[index][None], tf.int32)
        counts = tf.not_equal(label, IGNORE_LABEL)
        logits = resize_bilinear(output, label.shape[1:3], alignment=alignment)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counts, label, 0), logits)
        return tf.reduce_mean(tf.boolean_mask(losses, counts))

    read = _read_values(executor, channels.groups)
    importance: dict[int, float] = {}
    for values, gradients in _gradients(executor, read, images=images, target=loss):
        for name, gradient in gradients.items():
            product = np.asarray(values[name] * gradient, np.float64)
            changes = np.square(product.reshape(-1, product.shape[-1]).sum(0))
            for channel, change in zip(channels.ids[name].tolist(), changes, strict=True):
                importance[channel] = importance.get(channel, 0.0) + float(change)
    return importance


def _read_values(executor: Executor, groups: Sequence[ChannelGroup]) -> set[str]:
    names = {name for group in groups for name in group.consumers}
    return {node.inputs[0] for node in executor.network.nodes if node.name in names}


def _gradients(
    executor: Executor,
    names: Collection[str],
    *,
    images: Sequence[np.ndarray],
    target: Callable[[tf.Tensor, int], tf.Tensor],
) -> Iterator[tuple[dict[str, tf.Tensor], dict[str, tf.Tensor]]]:
    """Yields for each image the values of nodes and the gradients of a function of the output."""
    for index, image in enumerate(images):
        values: dict[str, tf.Tensor] = {}
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(start := tf.convert_to_tensor(image))
            output = executor.run(start, functools.partial(_remember, values, names))
            result = target(output, index)
        found = tape.gradient(result, values)
        yield values, {name: value for name, value in found.items() if value is not None}


def _remember(
    values: dict[str, tf.Tensor], names: Collection[str], node: Node, value: tf.Tensor
) -> None:
    if node.name in names:
        values[node.name] = value

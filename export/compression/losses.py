"""Measures what every option costs in accuracy: the squared error of the logits on other photos.

For channels: each group alone keeps fewer, with the layers behind it fitted again. Rows of kernels
that are 0 compute what the network without these channels computes, so one traced network serves
all options. For number formats: each layer alone is rounded (`quantization.ptq.sensitivity`).
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from absl import logging

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.kernels import kernel_key
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.pruning.channel_groups import ChannelGroup, ChannelMap, layer_name
from deeplab_tf.pruning.layer_inputs import Moments, evenly, input_rows
from deeplab_tf.pruning.selection import Reader, Selection, select_channels
from deeplab_tf.pruning.sensitivity import measure_effects, taylor_importance
from deeplab_tf.quantization.calibration.activation_ranges import (
    RangeMethod,
    choose_range,
    observe,
)
from deeplab_tf.quantization.ptq.bias_correction import quantize_kernel
from deeplab_tf.quantization.ptq.sensitivity import SwitchedNetwork
from deeplab_tf.quantization.qat import scheme
from export.compression.number_format import NumberFormat

_SHARES = (0.875, 0.75, 0.625, 0.5, 0.375, 0.25)
_EFFECT_IMAGES = 4
MULTIPLE = 8
"""Numbers of channels are multiples of this: kernels compute so many at once."""


class Importance(enum.Enum):
    """What decides which channels of a group go first."""

    RECONSTRUCTION = "reconstruction"
    """The error of the layers behind it after they are fitted again (He et al. 2017)."""
    TAYLOR = "taylor"
    """The first-order change of the cross-entropy (Molchanov et al. 2019); needs labels."""


@dataclasses.dataclass(frozen=True)
class Photos:
    """Images and labels of one purpose.

    Attributes:
        images: float32 [1, height, width, channels] each, normalized.
        labels: uint8 [height, width] each, at the size of the images, 255 = ignored.
    """

    images: list[np.ndarray]
    labels: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class GroupLoss:
    """A group with fewer channels.

    Attributes:
        selection: which channels go.
        loss: squared error of the logits, summed over one image, mean over the images.
    """

    selection: Selection
    loss: float


def numbers_to_keep(channels: int) -> list[int]:
    """Returns the numbers of channels that a group of so many may keep, decreasing.

    Args:
        channels: of the group.
    """
    rounded = {int(share * channels) // MULTIPLE * MULTIPLE for share in _SHARES}
    return sorted((count for count in rounded if MULTIPLE <= count < channels), reverse=True)


class _Judge:
    """Runs the network on photos with other weights for some layers."""

    def __init__(self, executor: Executor, images: Sequence[np.ndarray]) -> None:
        self._executor, self._images = executor, [tf.constant(image) for image in images]
        self._run = tf.function(executor.run)
        self._expected = [self._run(image) for image in self._images]
        self.signal = float(
            np.mean([tf.reduce_sum(tf.square(value)).numpy() for value in self._expected])
        )

    def loss(self) -> float:
        """Returns the squared error of the output with the executor's weights of now."""
        errors = [
            tf.reduce_sum(tf.square(self._run(image) - expected)).numpy()
            for image, expected in zip(self._images, self._expected, strict=True)
        ]
        return float(np.mean(errors))


@dataclasses.dataclass(frozen=True)
class ChannelLosses:
    """Losses of all options of all groups.

    Attributes:
        options: {group: its options, most channels first}.
        signal: sum of the squared logits of one image, mean over the images.
    """

    options: dict[str, list[GroupLoss]]
    signal: float


def measure_channel_losses(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    channels: ChannelMap,
    calibration: Photos,
    held_out: Photos,
    importance: Importance = Importance.RECONSTRUCTION,
    alignment: Alignment = Alignment.HALF_PIXEL,
) -> ChannelLosses:
    """Selects channels of every group and measures what their absence costs.

    Args:
        description: the network, with batch norms folded and biases (`removal.with_biases`).
        arrays: its weights.
        channels: of the network.
        calibration: photos that channels are selected and kernels fitted on.
        held_out: other photos, which losses are measured on.
        importance: which channels go first.
        alignment: convention by which logits are resized, for the Taylor importance.
    """
    executor = Executor(description, arrays)
    names = {name for group in channels.groups for name in group.consumers}
    effects = measure_effects(executor, names, images=calibration.images[:_EFFECT_IMAGES])
    scores = None
    if importance is Importance.TAYLOR:
        scores = taylor_importance(
            executor,
            channels,
            images=calibration.images,
            labels=calibration.labels,
            alignment=alignment,
        )
    moments = _moments(executor, names, arrays=arrays, images=calibration.images)
    judge = _Judge(executor, held_out.images)
    nodes = {node.name: node for node in description.nodes}
    options: dict[str, list[GroupLoss]] = {}
    for group in channels.groups:
        options[group.name] = []
        keep = numbers_to_keep(len(group.channels))
        readers = [Reader(nodes[n], moments[n], effects[n]) for n in group.consumers]
        if not keep:
            continue
        for selection in select_channels(
            group, channels, readers=readers, arrays=arrays, keep=keep, scores=scores
        ):
            for key, value in selection.arrays.items():
                executor.set_weight(key, value)
            options[group.name].append(GroupLoss(selection, judge.loss()))
        for name in group.consumers:
            executor.set_weights_of(nodes[name], arrays)
        logging.info("%s", _line(group, options[group.name], judge.signal))
    return ChannelLosses(options, judge.signal)


def _line(group: ChannelGroup, options: list[GroupLoss], signal: float) -> str:
    parts = [
        f"{option.selection.kept}: {10 * np.log10(signal / max(option.loss, 1e-12)):.1f} dB"
        for option in options
    ]
    return f"{group.name}, {len(group.channels)} channels; {', '.join(parts)}"


def _moments(
    executor: Executor,
    names: set[str],
    *,
    arrays: dict[str, np.ndarray],
    images: Sequence[np.ndarray],
) -> dict[str, Moments]:
    """Returns the moments of what layers read, over evenly spread pixels of all images."""
    moments: dict[str, Moments] = {}
    for image in images:
        run = executor.start([image])
        for node in executor.network.nodes:
            if node.name in names:
                value = run.value(node.inputs[0], 0)
                rows = evenly(input_rows(node, value, kernel=arrays[kernel_key(node)]))
                own = Moments.of(rows)
                moments[node.name] = moments[node.name] + own if node.name in moments else own
            run.step(node)
    return moments


def measure_format_losses(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    calibration: Photos,
    held_out: Photos,
    formats: Sequence[NumberFormat],
) -> dict[str, dict[NumberFormat, float]]:
    """Measures the loss of every layer with a kernel in each number format.

    Args:
        description: the network, batch norms folded.
        arrays: its weights.
        calibration: photos that ranges are taken from.
        held_out: photos that losses are measured on.
        formats: beside int8.

    Returns:
        {layer: {format: squared error of the logits of one image}}.
    """
    plans = scheme.plan_layers(build_model(description))
    names = [name for name, plan in plans.items() if plan.output]
    histograms = observe(description, arrays, names=names, batches=calibration.images)
    ranges = {name: choose_range(found, RangeMethod.MIN_MAX) for name, found in histograms.items()}
    network = SwitchedNetwork(description, arrays, ranges=ranges)
    network.set_integer(set())
    judge = _Judge(network.executor, held_out.images)
    nodes = {node.name: node for node in description.nodes}
    losses: dict[str, dict[NumberFormat, float]] = {}
    for unit in network.units:
        if not unit.weights:
            continue
        network.set_integer({unit.name})
        own = {NumberFormat.INT8: judge.loss()}
        if NumberFormat.INT16 in formats:  # the weights are rounded, the activations hardly
            network.set_integer(set())
            node = nodes[unit.layers[0]]
            kernel = arrays[kernel_key(node)]
            network.executor.set_weight(kernel_key(node), quantize_kernel(node, kernel))
            own[NumberFormat.INT16] = judge.loss()
            network.executor.set_weight(kernel_key(node), kernel)
        if NumberFormat.FLOAT32 in formats:
            own[NumberFormat.FLOAT32] = 0.0
        losses[layer_name(unit.name)] = own
    return losses

"""Gradient descent that decides whether each weight of a layer is rounded up or down.

Every layer is computed as a product of matrices, [groups, positions, inputs] @ [groups, inputs,
outputs], over a sample of output positions; a depthwise convolution has one group per channel.
"""

import typing

import numpy as np
import tensorflow as tf

from deeplab_tf.graph.kernels import bias_key
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.adaround.grid import Grid
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.adaround.sample import Sample

Activation = tuple[float, float | np.ndarray]
"""(slope, limit) of f(y) = min(max(y, slope * y), limit); limit: a number, or [channels]."""

_FIXED_V = -20.0
"""V of a weight that is not learned: h(V) = 0, and so is its gradient."""


_LINEAR: Activation = (1.0, np.inf)


def activation_after(
    description: NetworkGraph, node: Node, *, arrays: dict[str, np.ndarray]
) -> Activation:
    """Returns the activation after a layer.

    Args:
        description: the network.
        node: the layer.
        arrays: the network's weights, for limits per channel.

    Returns:
        (slope, limit) of f(y) = min(max(y, slope * y), limit).
    """
    follower = description.only_consumer(node.name)
    if follower is None:
        return _LINEAR
    settings = follower.attributes
    if follower.kind == "channel_limit":
        return 0.0, arrays[f"{follower.name}/limit"]
    if follower.kind != "relu" or settings.get("threshold"):
        return _LINEAR
    limit = settings.get("max_value")
    return settings.get("negative_slope") or 0.0, np.inf if limit is None else limit


class _Problem(typing.NamedTuple):
    """A layer as matrices, float32, with the sample in w parts of p positions each.

    Attributes:
        inputs: [w, groups, p, inputs], of the quantized network.
        targets: [w, groups, p, outputs], of the float network before the activation.
        below: [groups, inputs, outputs], the weights rounded down, in steps.
        start: V of the float weights, of the same shape as `below`.
        scale: [groups, 1, outputs], as the following three.
        bias: of the layer.
        slope: of the activation.
        limit: of the activation.
        unit: change of the output for one step of a weight at a typical input.
    """

    inputs: tf.Tensor
    targets: tf.Tensor
    below: tf.Tensor
    start: tf.Tensor
    scale: tf.Tensor
    bias: tf.Tensor
    slope: tf.Tensor
    limit: tf.Tensor
    unit: tf.Tensor


class Schedule(typing.NamedTuple):
    """The options as scalar tensors, so that one graph serves all options.

    Attributes:
        iterations: steps of Adam.
        warm_iterations: first steps, without regularization.
        learning_rate: of Adam.
        regularization: weight of the regularization.
        beta_start: exponent at the first step with regularization.
        beta_end: exponent at the last step.
    """

    iterations: tf.Tensor
    warm_iterations: tf.Tensor
    learning_rate: tf.Tensor
    regularization: tf.Tensor
    beta_start: tf.Tensor
    beta_end: tf.Tensor

    @classmethod
    def from_options(cls, options: AdaRoundOptions) -> "Schedule":
        """Converts the options to tensors."""
        numbers = {name: getattr(options, name) for name in cls._fields if hasattr(options, name)}
        numbers["warm_iterations"] = options.warm_start * options.iterations
        return cls(**{name: tf.constant(float(value)) for name, value in numbers.items()})


def build_problem(
    grid: Grid,
    sample: Sample,
    *,
    arrays: dict[str, np.ndarray],
    function: Activation,
    batch_pixels: int,
) -> _Problem:
    """Converts a layer and its sample to matrices.

    Args:
        grid: the kernel on its grid.
        sample: positions of the layer.
        arrays: the network's weights, for the bias.
        function: the activation after the layer.
        batch_pixels: positions per step.

    Returns:
        The matrices.
    """
    size = min(batch_pixels, len(sample.training_positions))
    used = sample.training_positions[: len(sample.training_positions) // size * size]
    below = grid.matrix(grid.below)
    # h(start) = W / scale - floor(W / scale)
    above = np.clip(grid.matrix(grid.exact) - below, 0, 1)
    start = np.where(grid.matrix(grid.fixed), _FIXED_V, -np.log(1.2 / (above + 0.1) - 1))
    channels = np.ones(len(grid.scales))
    slope, limit = function
    inputs = _as_matrix(sample.windows[used], grid.groups, size=size)
    typical = np.sqrt(np.mean(np.square(inputs), (0, 2, 3)))[:, None, None]
    parts = {
        "inputs": inputs,
        "targets": _as_matrix(sample.targets[used][:, None], grid.groups, size=size),
        "below": below,
        "start": start,
        "scale": grid.row(grid.scales),
        "bias": grid.row(channels * arrays.get(bias_key(grid.node), 0.0)),
        "slope": grid.row(channels * slope),
        "limit": grid.row(channels * limit),
        "unit": grid.row(grid.scales) * np.where(typical > 0, typical, 1.0),
    }
    return _Problem(**{name: tf.constant(value, tf.float32) for name, value in parts.items()})


def _as_matrix(windows: np.ndarray, groups: int, *, size: int) -> np.ndarray:
    """Splits windows into parts of `size` positions and into groups.

    Args:
        windows: [positions, taps, channels].
        groups: number of groups of channels.
        size: positions per part; divides the number of positions.

    Returns:
        [positions / size, groups, size, taps * channels / groups].
    """
    _, taps, channels = windows.shape
    split = windows.reshape(-1, size, taps, groups, channels // groups)
    return split.transpose(0, 3, 1, 2, 4).reshape(-1, groups, size, taps * channels // groups)


def solve_layer(
    problem: _Problem, sample: Sample, *, grid: Grid, schedule: Schedule
) -> tuple[np.ndarray, tuple[float, float]]:
    """Learns the rounding of a layer.

    An output channel whose error on held-out positions increases is rounded to nearest.

    Args:
        problem: the layer as matrices.
        sample: positions of the layer.
        grid: the kernel on its grid.
        schedule: options of the optimization.

    Returns:
        The kernel in steps, in the kernel's shape, and the mean squared errors on held-out
        positions with nearest and with learned rounding.
    """
    up = _rectified_sigmoid(_descend(problem, schedule)).numpy() >= 0.5
    nearest, learned = grid.matrix(grid.nearest), problem.below.numpy() + up
    held_out = sample.held_out_positions
    count = len(held_out)
    inputs = _as_matrix(sample.windows[held_out], grid.groups, size=count)[0]
    targets = _as_matrix(sample.targets[held_out][:, None], grid.groups, size=count)[0]
    before, after = (
        np.mean(
            np.square(
                _differences(problem, inputs, targets=targets, steps=steps.astype(np.float32))
            ),
            1,
        )
        for steps in (nearest, learned)
    )
    steps = np.where(after[:, None] < before[:, None], learned, nearest)
    return grid.from_matrix(steps), (float(before.mean()), float(np.minimum(before, after).mean()))


def _rectified_sigmoid(value: tf.Tensor) -> tf.Tensor:
    """Computes h(V)."""
    return tf.clip_by_value(1.2 * tf.sigmoid(value) - 0.1, 0.0, 1.0)


def _differences(
    problem: _Problem,
    inputs: tf.Tensor | np.ndarray,
    *,
    targets: tf.Tensor | np.ndarray,
    steps: tf.Tensor | np.ndarray,
) -> tf.Tensor:
    """Computes the differences of the outputs after the activation, [groups, p, outputs]."""

    def active(output: tf.Tensor) -> tf.Tensor:
        return tf.minimum(tf.maximum(output, problem.slope * output), problem.limit)

    return active(inputs @ (problem.scale * steps) + problem.bias) - active(targets)


_OF_SAMPLE, _OF_KERNEL = tf.TensorSpec([None] * 4), tf.TensorSpec([None] * 3)


@tf.function(
    input_signature=[
        _Problem(*[_OF_SAMPLE] * 2, *[_OF_KERNEL] * 7),
        Schedule(*[tf.TensorSpec([])] * 6),
    ]
)
def _descend(problem: _Problem, schedule: Schedule) -> tf.Tensor:
    """Returns V after Adam (Kingma and Ba 2015, arXiv:1412.6980), one part of the sample a step."""
    value = problem.start
    first, second = tf.zeros_like(value), tf.zeros_like(value)
    parts = tf.shape(problem.inputs)[0]
    for step in tf.range(schedule.iterations):
        part = tf.cast(step, tf.int32) % parts
        with tf.GradientTape() as tape:
            tape.watch(value)
            up = _rectified_sigmoid(value)
            error = _differences(
                problem,
                problem.inputs[part],
                targets=problem.targets[part],
                steps=problem.below + up,
            )
            error = tf.reduce_mean(tf.square(error / problem.unit), 1)
            beta, weight = _regularization(step, schedule)
            undecided = tf.reduce_sum(1 - tf.abs(2 * up - 1) ** beta)
            loss = tf.reduce_sum(error) + weight * undecided
        gradient = tape.gradient(loss, value)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * tf.square(gradient)
        corrected = first / (1 - 0.9 ** (step + 1))
        spread = tf.sqrt(second / (1 - 0.999 ** (step + 1)))
        value -= schedule.learning_rate * corrected / (spread + 1e-8)
    return value


def _regularization(step: tf.Tensor, schedule: Schedule) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns exponent and weight of the regularization at a step."""
    warm, last = schedule.warm_iterations, schedule.iterations
    share = tf.clip_by_value((step - warm) / (last - warm), 0.0, 1.0)
    cosine = 0.5 * (1 + tf.cos(np.pi * share))
    beta = schedule.beta_end + (schedule.beta_start - schedule.beta_end) * cosine
    return beta, tf.where(step < warm, 0.0, schedule.regularization)

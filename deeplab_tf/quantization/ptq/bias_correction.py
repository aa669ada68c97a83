"""Bias correction: compensates the shift of a layer's mean output that rounded weights cause.

Nagel et al. 2019, arXiv:1906.04721, section 4.2: with W~ = W + e, E[W~ x] - E[W x] = e E[x].

    empirical    both means are measured on calibration images, layer by layer; in the quantized
                 network all earlier layers are corrected and all activations rounded
    analytic     E[x] follows from the preceding batch norm: a normal distribution clipped by ReLU
"""

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from deeplab_tf.graph.executor import Executor, rounding_of
from deeplab_tf.graph.kernels import (
    LARGEST_INT8,
    WITH_KERNEL,
    along_outputs,
    bias_key,
    int8_scales,
    kernel_key,
    response_to_constant,
)
from deeplab_tf.graph.network import IDENTITY, RESIZE, NetworkGraph, Node
from deeplab_tf.quantization.calibration.checks import non_empty_batches
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights, pixel_weights

_SAME_MEAN = (
    IDENTITY,
    RESIZE,
    "global_average_pool2d",
    "average_pool2d",
    "up_sampling2d",
    "cropping2d",
)


@dataclasses.dataclass(frozen=True)
class BiasCorrection:
    """Result of bias correction.

    Attributes:
        arrays: the network's weights with corrected biases.
        corrections: {layer: value added to its bias}, float64 [channels].
        skipped: "layer: reason" of layers that were not corrected.
    """

    arrays: dict[str, np.ndarray]
    corrections: dict[str, np.ndarray]
    skipped: tuple[str, ...]


def quantize_kernel(node: Node, kernel: np.ndarray, *, per_channel: bool = True) -> np.ndarray:
    """Rounds a kernel to 8-bit integers and back: scale * q, -127 <= q <= 127.

    The scale is max|kernel| / 127. A kernel of zeros stays unchanged.

    Args:
        node: the layer.
        kernel: its kernel.
        per_channel: one scale per output channel; False for one per kernel.

    Returns:
        float32 of the same shape.
    """
    kernel = kernel.astype(np.float64)
    scale = along_outputs(node, kernel, values=int8_scales(node, kernel, per_channel=per_channel))
    steps = np.clip(np.rint(kernel / scale), -LARGEST_INT8, LARGEST_INT8)
    return (steps * scale).astype(np.float32)


def correct_empirically(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    batches: list[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    per_channel: bool = True,
    reference: dict[str, np.ndarray] | None = None,
    kept_float: tuple[str, ...] = (),
    ignore_empty: bool = False,
) -> BiasCorrection:
    """Corrects all biases on calibration images, in the order of execution.

    The float and the quantized network are executed in parallel, node by node. The difference of a
    layer's means, over all images and pixels, is added to its bias before later nodes are computed.

    Args:
        description: a network without batch norms.
        arrays: its weights.
        batches: calibration images, float32 [batch, height, width, channels], normalized; all
            are held in memory at once.
        ranges: {node: (min, max)} of the quantized network's activations.
        per_channel: whether weights have one scale per channel or one per kernel.
        reference: weights of the float network, if the kernels in `arrays` are rounded already.
        kept_float: layers whose kernels are not rounded.
        ignore_empty: whether to exclude empty pixels from the means (`empty_pixels`).

    Returns:
        The corrected weights.

    Raises:
        ValueError: no images, or NaN or infinity in them.
    """
    images = np.concatenate(non_empty_batches(batches))
    (weights,) = pixel_weights([images], ignore_empty)
    arrays = dict(arrays)
    rounded = arrays | {
        kernel_key(node): quantize_kernel(node, arrays[kernel_key(node)], per_channel=per_channel)
        for node in description.nodes
        if node.kind in WITH_KERNEL and node.name not in kept_float
    }
    executor = Executor(description, arrays if reference is None else reference)
    exact = executor.start([images])
    quantized = executor.rounded(rounding_of(ranges)).start([images])
    corrections: dict[str, np.ndarray] = {}

    def correct(node: Node, values: list[tf.Tensor]) -> list[tf.Tensor]:
        """Shifts the output of a layer, and its bias, to the mean of the float layer."""
        shift = _mean(exact.value(node.name, 0) - values[0], weights)
        corrections[node.name] = shift
        arrays[bias_key(node)] = (arrays[bias_key(node)] + shift).astype(np.float32)
        return [values[0] + tf.constant(shift, tf.float32)]

    skipped: list[str] = []
    for node in description.nodes:
        exact.step(node)
        executor.set_weights_of(node, rounded)  # the float network has passed it
        has_bias = bias_key(node) in arrays
        if node.kind in WITH_KERNEL and not has_bias:
            skipped.append(f"{node.name}: has no bias")
        corrected = node.kind in WITH_KERNEL and has_bias
        quantized.step(node, functools.partial(correct, node) if corrected else None)
    return BiasCorrection(arrays, corrections, skipped=tuple(skipped))


def _mean(value: tf.Tensor, weights: PixelWeights | None) -> np.ndarray:
    """Computes the mean over all axes except the channels, float64 [channels]."""
    if weights is None:
        return tf.reduce_mean(value, list(range(len(value.shape) - 1))).numpy().astype(np.float64)
    shares = weights.of(value)
    total = max(shares.sum(), np.finfo(np.float64).tiny)
    return shares @ np.asarray(value, np.float64).reshape(-1, value.shape[-1]) / total


def correct_analytically(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    statistics: dict[str, tuple[np.ndarray, np.ndarray]],
    per_channel: bool = True,
    reference: dict[str, np.ndarray] | None = None,
    kept_float: tuple[str, ...] = (),
) -> BiasCorrection:
    """Corrects biases without images, where batch norms determine the mean input of a layer.

    Args:
        description: a network without batch norms.
        arrays: its weights.
        statistics: its `Folding.statistics`, divided by the scales of equalization, with absorbed
            biases subtracted from the means.
        per_channel: whether weights have one scale per channel or one per kernel.
        reference: weights of the float network, if the kernels in `arrays` are rounded already.
        kept_float: layers whose kernels are not rounded.

    Returns:
        The corrected weights.
    """
    reference = arrays if reference is None else reference
    arrays = dict(arrays)
    expected: dict[str, np.ndarray] = {}
    normal = dict(statistics)
    corrections: dict[str, np.ndarray] = {}
    skipped: list[str] = []
    for node in description.nodes:
        input_means = [expected.get(name) for name in node.inputs]
        if node.kind in WITH_KERNEL:
            if node.name in kept_float:
                skipped.append(f"{node.name}: stays float")
            elif bias_key(node) not in arrays:
                skipped.append(f"{node.name}: has no bias")
            elif input_means[0] is None:
                skipped.append(f"{node.name}: the mean of its input is unknown")
            else:
                key = kernel_key(node)
                rounded = quantize_kernel(node, arrays[key], per_channel=per_channel)
                error = rounded.astype(np.float64) - reference[key]
                shift = -response_to_constant(node, error, value=input_means[0])
                corrections[node.name] = shift
                arrays[bias_key(node)] = (arrays[bias_key(node)] + shift).astype(np.float32)
            if node.name in normal:
                expected[node.name] = normal[node.name][0]
        elif (mean := _mean_after(node, input_means, normal=normal, arrays=arrays)) is not None:
            expected[node.name] = mean
            if node.kind == IDENTITY and node.inputs[0] in normal:
                normal[node.name] = normal[node.inputs[0]]
    return BiasCorrection(arrays, corrections, skipped=tuple(skipped))


def _mean_after(
    node: Node,
    input_means: Sequence[np.ndarray | None],
    *,
    normal: dict[str, tuple[np.ndarray, np.ndarray]],
    arrays: dict[str, np.ndarray],
) -> np.ndarray | None:
    """Computes the mean output of a node without a kernel.

    Args:
        node: the node.
        input_means: mean of each input, [channels], None where unknown.
        normal: {node: (mean, standard deviation)} of normally distributed outputs.
        arrays: the network's weights.

    Returns:
        float64 [channels], None if unknown.
    """
    means = [mean for mean in input_means if mean is not None]
    if len(means) < len(input_means):
        return None
    if node.kind in _SAME_MEAN:
        return means[0]
    if node.kind == "add":
        return sum(means[1:], means[0])
    if node.kind == "concatenate":
        return np.concatenate(means)
    source = node.inputs[0]
    not_plain = node.attributes.get("negative_slope") or node.attributes.get("threshold")
    if node.kind == "relu" and source in normal and not not_plain:
        limit = node.attributes.get("max_value")
        return clipped_normal_mean(*normal[source], limit=math.inf if limit is None else limit)
    if node.kind == "channel_limit" and source in normal:
        return clipped_normal_mean(*normal[source], limit=arrays[f"{node.name}/limit"])
    return None


def clipped_normal_mean(
    mean: npt.ArrayLike, deviation: npt.ArrayLike, *, limit: npt.ArrayLike
) -> np.ndarray:
    """Computes E[min(max(x, 0), limit)] for normally distributed x.

    With a = -mean / deviation, b = (limit - mean) / deviation, and p, P the density and the
    distribution function of the standard normal distribution, it is
    mean (P(b) - P(a)) + deviation (p(a) - p(b)) + limit (1 - P(b)).

    Args:
        mean: of x.
        deviation: standard deviation of x.
        limit: may be infinite.

    Returns:
        float64 of the shape of `mean`.
    """
    mean = np.asarray(mean, np.float64)
    deviation = np.maximum(np.asarray(deviation, np.float64), 1e-12)
    limit = np.broadcast_to(np.asarray(limit, np.float64), mean.shape)
    low, high = -mean / deviation, (limit - mean) / deviation
    between = _distribution(high) - _distribution(low)
    above = 1 - _distribution(high)
    clipped = np.where(np.isfinite(limit), np.where(above > 0, limit, 0) * above, 0.0)
    return mean * between + deviation * (_density(low) - _density(high)) + clipped


def _density(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * np.square(x)) / math.sqrt(2 * math.pi)


def _distribution(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))

"""Rounded weights shift the mean of what a layer gives; the bias takes the shift back.

Nagel et al. 2019, arXiv:1906.04721, section 4.2: with W~ = W + e, E[W~ x] - E[W x] = e E[x].

    empirical    both means measured on calibration photos, layer after layer, the quantized
                 network's with every earlier layer corrected and every activation rounded
    analytic     E[x] from the batch norm in front, a normal distribution clipped by the ReLU
"""

import dataclasses
import functools
import math

import numpy as np
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
from deeplab_tf.graph.network import IDENTITY, RESIZE, NetworkDescription, Node
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
    """What was corrected.

    Attributes:
        arrays: the network's weights, biases corrected.
        corrections: {layer: what was added to its bias}, float64 [channels].
        left: "layer: why not".
    """

    arrays: dict[str, np.ndarray]
    corrections: dict[str, np.ndarray]
    left: tuple[str, ...]


def quantize_kernel(node: Node, kernel: np.ndarray, *, per_channel: bool = True) -> np.ndarray:
    """The kernel as 8-bit integers hold it: scale * q, -127 <= q <= 127, scale = max|kernel| / 127.

    One scale an output channel, or one for the kernel. A kernel of zeros stays as it is.
    """
    kernel = kernel.astype(np.float64)
    scale = along_outputs(node, kernel, values=int8_scales(node, kernel, per_channel=per_channel))
    steps = np.clip(np.rint(kernel / scale), -LARGEST_INT8, LARGEST_INT8)
    return (steps * scale).astype(np.float32)


def correct_empirically(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    batches: list[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    per_channel: bool = True,
    reference: dict[str, np.ndarray] | None = None,
    kept_float: tuple[str, ...] = (),
    ignore_empty: bool = False,
) -> BiasCorrection:
    """Corrects every layer with a bias, in the order of execution.

    The float and the quantized network walk side by side; what a layer's mean is off by, over
    all photos and pixels, is taken from its bias before anything behind it is computed.

    Args:
        description, arrays: a network without batch norms.
        batches: calibration photos, float32 [batch, height, width, channels], normalized; all
            are held in memory at once.
        ranges: {node: (min, max)} of the quantized network's activations.
        per_channel: of the weights.
        reference: the float network's own weights, where those of `arrays` are rounded already.
        kept_float: layers whose kernels are not rounded.
        ignore_empty: leave empty pixels out of the means (`empty_pixels`).

    Raises:
        ValueError: no photos, or NaN or infinity in them.
    """
    photos = np.concatenate(non_empty_batches(batches))
    (weights,) = pixel_weights([photos], ignore_empty)
    arrays = dict(arrays)
    rounded = arrays | {
        kernel_key(node): quantize_kernel(node, arrays[kernel_key(node)], per_channel=per_channel)
        for node in description.nodes
        if node.kind in WITH_KERNEL and node.name not in kept_float
    }
    exact = Executor(description, arrays if reference is None else reference).start([photos])
    quantized = Executor(description, rounded, rounding=rounding_of(ranges)).start([photos])
    corrections: dict[str, np.ndarray] = {}

    def correct(node: Node, values: list) -> list:
        """Shifts what a layer gives, and its bias, to the float layer's mean."""
        shift = _mean(exact.value(node.name, 0) - values[0], weights)
        corrections[node.name] = shift
        arrays[bias_key(node)] = (arrays[bias_key(node)] + shift).astype(np.float32)
        return [values[0] + tf.constant(shift, tf.float32)]

    left: list[str] = []
    for node in description.nodes:
        exact.step(node)
        has_bias = bias_key(node) in arrays
        if node.kind in WITH_KERNEL and not has_bias:
            left.append(f"{node.name}: has no bias")
        corrected = node.kind in WITH_KERNEL and has_bias
        quantized.step(node, functools.partial(correct, node) if corrected else None)
    return BiasCorrection(arrays, corrections, left=tuple(left))


def _mean(value, weights: PixelWeights | None) -> np.ndarray:
    """Over everything but the channels, float64 [channels]."""
    if weights is None:
        return tf.reduce_mean(value, list(range(len(value.shape) - 1))).numpy().astype(np.float64)
    shares = weights.of(value)
    total = max(shares.sum(), np.finfo(np.float64).tiny)
    return shares @ np.asarray(value, np.float64).reshape(-1, value.shape[-1]) / total


def correct_analytically(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    statistics: dict[str, tuple[np.ndarray, np.ndarray]],
    per_channel: bool = True,
    reference: dict[str, np.ndarray] | None = None,
    kept_float: tuple[str, ...] = (),
) -> BiasCorrection:
    """Corrects without photos, where batch norms say what flows into a layer.

    Args:
        description, arrays: a network without batch norms.
        statistics: `Folding.statistics` of it, divided by the scales of an equalization, means
            less what was absorbed.
        per_channel: of the weights.
        reference: the float network's own weights, where those of `arrays` are rounded already.
        kept_float: layers whose kernels are not rounded.
    """
    reference = arrays if reference is None else reference
    arrays = dict(arrays)
    expected: dict[str, np.ndarray] = {}
    normal: dict[str, tuple] = dict(statistics)
    corrections: dict[str, np.ndarray] = {}
    left: list[str] = []
    for node in description.nodes:
        given = [expected.get(name) for name in node.inputs]
        if node.kind in WITH_KERNEL:
            if node.name in kept_float:
                left.append(f"{node.name}: stays float")
            elif given[0] is None or bias_key(node) not in arrays:
                left.append(f"{node.name}: what flows into it is not known")
            else:
                key = kernel_key(node)
                rounded = quantize_kernel(node, arrays[key], per_channel=per_channel)
                error = rounded.astype(np.float64) - reference[key]
                shift = -response_to_constant(node, error, value=given[0])
                corrections[node.name] = shift
                arrays[bias_key(node)] = (arrays[bias_key(node)] + shift).astype(np.float32)
            if node.name in normal:
                expected[node.name] = normal[node.name][0]
        elif (found := _mean_behind(node, given, normal=normal, arrays=arrays)) is not None:
            expected[node.name] = found
            if node.kind == IDENTITY and node.inputs[0] in normal:
                normal[node.name] = normal[node.inputs[0]]
    return BiasCorrection(arrays, corrections, left=tuple(left))


def _mean_behind(node: Node, given, *, normal, arrays):
    """E of a node that has no kernel, [channels]; None where it is not known."""
    if any(mean is None for mean in given):
        return None
    if node.kind in _SAME_MEAN:
        return given[0]
    if node.kind == "add":
        return sum(given)
    if node.kind == "concatenate":
        return np.concatenate(given)
    source = node.inputs[0]
    odd = node.attributes.get("negative_slope") or node.attributes.get("threshold")
    if node.kind == "relu" and source in normal and not odd:
        limit = node.attributes.get("max_value")
        return clipped_normal_mean(*normal[source], limit=math.inf if limit is None else limit)
    if node.kind == "channel_limit" and source in normal:
        return clipped_normal_mean(*normal[source], limit=arrays[f"{node.name}/limit"])
    return None


def clipped_normal_mean(mean, deviation, *, limit) -> np.ndarray:
    """E[min(max(x, 0), limit)] of x normal; float64 of the shape of `mean`.

    With a = -mean / deviation, b = (limit - mean) / deviation, and p, P the standard normal's
    density and distribution:  mean (P(b) - P(a)) + deviation (p(a) - p(b)) + limit (1 - P(b)).
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

"""Bias absorption: moves high biases into the next layer, which narrows activation ranges.

Nagel et al. 2019, arXiv:1906.04721, section 4.1.3. Where the input of a ReLU is hardly ever below
some c > 0, relu(x - c) = relu(x) - c, so with y = W2 relu(W1 x + b1) + b2:

    b1' = b1 - c,   b2' = b2 + W2 c,   c = max(0, mean - 3 standard deviations)

The paper has no upper limit: it replaces ReLU6 by ReLU. With f(x) = min(relu(x), limit) and
f'(x) = min(relu(x), limit - c), f'(x - c) = f(x) - c requires x >= c as before, and c < limit:
otherwise f' would be a negative constant. f maps all values above the limit to the limit, so the
mean of a channel is clipped to the limit:

    c = max(0, min(mean, limit) - 3 standard deviations)

A channel below its limit keeps the paper's c. A channel that is always above its limit outputs the
limit on every calibration image but may output less on other images: three standard deviations
below the limit are kept.
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.kernels import bias_key, kernel_key, response_to_constant
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.calibration.checks import non_empty_batches
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights, pixel_weights
from deeplab_tf.quantization.ptq.equalization import Pair, Relu6, find_pairs

_SMALLEST_LIMIT = 1 / 256
"""Smallest remaining fraction of a limit, for a channel that is constant above its limit, with
deviation 0. A limit of 0 would make the tensor constant, with a range of zero width."""


@dataclasses.dataclass(frozen=True)
class Absorption:
    """Result of bias absorption.

    Attributes:
        description: the network.
        arrays: its weights.
        absorbed: {first layer: c of each channel}, float64 [channels], where some c > 0.
        skipped: "layer: reason" of layers that were not changed.
    """

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    absorbed: dict[str, np.ndarray]
    skipped: tuple[str, ...]


def absorb_high_biases(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    batches: list[np.ndarray],
    ignore_empty: bool = False,
) -> Absorption:
    """Absorbs high biases without changing the network's output on the calibration images.

    c is also bounded by the smallest observed value, so that on these images no additional values
    are clipped, and by the limit of a channel, which stays above 0. On other images values may be
    smaller: there the function is approximated, and more calibration images make this rarer. Pairs
    whose second layer pads with zeros are skipped: at the border it would read 0 where c was
    absorbed.

    Args:
        description: a network without batch norms, equalized or not.
        arrays: its weights.
        batches: calibration images, float32 [batch, height, width, channels], normalized.
        ignore_empty: whether to exclude empty pixels from the statistics (`empty_pixels`).

    Returns:
        The changed network and what was absorbed.

    Raises:
        ValueError: no images, or NaN or infinity in them.
    """
    batches = non_empty_batches(batches)
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    (pairs, skipped), kept = find_pairs(description, Relu6.EXACT), []
    for pair in pairs:
        if reason := _skip_reason(pair, by_name, arrays=arrays):
            skipped.append(f"{pair.first}: {reason}")
        else:
            kept.append(pair)
    names = {pair.first for pair in kept}
    observed = _observe(
        description, arrays, names=names, batches=batches, ignore_empty=ignore_empty
    )
    absorbed = {}
    for pair in kept:
        mean, deviation, smallest = observed[pair.first]
        limit = _limit_of(pair, by_name, arrays=arrays)
        c = np.minimum(np.minimum(mean, limit) - 3 * deviation, smallest)
        c = np.clip(c, 0.0, (1 - _SMALLEST_LIMIT) * limit)
        if not c.any():
            continue
        first, second = by_name[pair.first], by_name[pair.second]
        kernel = arrays[kernel_key(second)].astype(np.float64)
        arrays[bias_key(first)] = (arrays[bias_key(first)] - c).astype(np.float32)
        arrays[bias_key(second)] = (
            arrays[bias_key(second)] + response_to_constant(second, kernel, value=c)
        ).astype(np.float32)
        if (key := _limit_key(pair, by_name)) is not None:
            arrays[key] = (arrays[key] - c).astype(np.float32)
        absorbed[pair.first] = c
    return Absorption(description, arrays, absorbed=absorbed, skipped=tuple(skipped))


def _skip_reason(pair: Pair, by_name: dict[str, Node], *, arrays: dict[str, np.ndarray]) -> str:
    """Returns why nothing is absorbed between two layers; empty if it is."""
    first, second = by_name[pair.first], by_name[pair.second]
    kinds = [by_name[name].kind for name in pair.between]
    if kinds not in (["relu"], ["channel_limit"]):
        return f"expected one ReLU before {second.name}, got {' and '.join(kinds) or 'none'}"
    relu = by_name[pair.between[0]]
    if relu.attributes.get("max_value") is not None or relu.attributes.get("negative_slope"):
        return f"{relu.name} is not a plain ReLU; equalize first"
    if bias_key(first) not in arrays or bias_key(second) not in arrays:
        return "a layer has no bias; fold batch norms first"
    if second.kind not in ("conv2d", "dense", "depthwise_conv2d"):
        return f"{second.name} is {second.kind}"
    pads = second.attributes.get("padding") == "same"
    if pads and max(np.shape(arrays[kernel_key(second)])[:2]) > 1:
        return f"{second.name} pads with zeros"
    return ""


def _limit_key(pair: Pair, by_name: dict[str, Node]) -> str | None:
    """Returns the key of the array with one limit per channel; None without a limit."""
    (name,) = pair.between
    return f"{name}/limit" if by_name[name].kind == "channel_limit" else None


def _limit_of(pair: Pair, by_name: dict[str, Node], *, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the largest value of each channel after the ReLU, float64; inf without a limit."""
    key = _limit_key(pair, by_name)
    return np.asarray(np.inf if key is None else arrays[key], np.float64)


def _observe(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    names: set[str],
    batches: Sequence[np.ndarray],
    ignore_empty: bool,
) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Measures the outputs of nodes on calibration images.

    Returns:
        {node: (mean, standard deviation, smallest value) per channel}, float64 [channels] each.
    """
    sums: dict[str, list] = {}

    def add(node: Node, value: tf.Tensor, *, weights: PixelWeights | None) -> None:
        name = node.name
        if name not in names:
            return
        flat = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
        share = np.ones(len(flat)) if weights is None else weights.of(value)
        smallest = flat[share > 0].min(0, initial=np.inf)
        added = [share.sum(), share @ flat, share @ np.square(flat)]
        if name in sums:
            *previous, previous_smallest = sums[name]
            added = [a + b for a, b in zip(previous, added, strict=True)]
            smallest = np.minimum(previous_smallest, smallest)
        sums[name] = [*added, smallest]

    executor = Executor(description, arrays)
    for batch, weights in zip(batches, pixel_weights(batches, ignore_empty), strict=True):
        executor.run(batch, functools.partial(add, weights=weights))
    return {
        name: (total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)), low)
        for name, (count, total, squares, low) in sums.items()
    }

"""High biases move into the next layer, where they widen no activation's range.

Nagel et al. 2019, arXiv:1906.04721, section 4.1.3. Where a ReLU's input hardly ever falls below
some c > 0, relu(x - c) = relu(x) - c, so with y = W2 relu(W1 x + b1) + b2:

    b1' = b1 - c,   b2' = b2 + W2 c,   c = max(0, mean - 3 standard deviations)

The paper has no limit above: it takes ReLU for ReLU6. With f(x) = min(relu(x), limit) and
f'(x) = min(relu(x), limit - c), f'(x - c) = f(x) - c wants x >= c as before, and c < limit: above
it, f' would be a negative constant. What is above the limit is the same to f, so a channel's mean
counts as the limit at most:

    c = max(0, min(mean, limit) - 3 standard deviations)

A channel below its limit keeps the paper's c. One that is always above it gives the limit on
every photo, but on another photo may give less: it keeps the three deviations below the limit.
"""

import dataclasses
import functools

import numpy as np

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.kernels import bias_key, kernel_key, response_to_constant
from deeplab_tf.graph.network import NetworkDescription, Node
from deeplab_tf.quantization.calibration.checks import non_empty_batches
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights, pixel_weights
from deeplab_tf.quantization.ptq.equalization import Relu6, find_pairs

_SMALLEST_LIMIT = 1 / 256
"""What is left of a limit at least, a share: of a channel that is constant above its limit, whose
deviation is 0. A limit of 0 would be a dead tensor, with a range of no width."""


@dataclasses.dataclass(frozen=True)
class Absorption:
    """What was moved.

    Attributes:
        description, arrays: the network.
        absorbed: {first layer: c of each channel}, float64 [channels], where some c > 0.
        left: "layer: why not" of layers that cannot take part.
    """

    description: NetworkDescription
    arrays: dict[str, np.ndarray]
    absorbed: dict[str, np.ndarray]
    left: tuple[str, ...]


def absorb_high_biases(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    *,
    batches: list[np.ndarray],
    ignore_empty: bool = False,
) -> Absorption:
    """Absorbs what every calibration photo allows: there the function is unchanged.

    c is also bounded by the smallest value that was seen, so that on these photos no value is
    cut off which was not cut off before, and by a channel's limit, which stays above 0. Other
    photos may hold smaller values: there the function is approximated, the better the more photos
    are given. A second layer that pads with zeros takes no part: at the border it would see 0
    where c was absorbed.

    Args:
        description, arrays: a network without batch norms, equalized or not.
        batches: calibration photos, float32 [batch, height, width, channels], normalized.
        ignore_empty: leave empty pixels out of the statistics (`empty_pixels`).

    Raises:
        ValueError: no photos, or NaN or infinity in them.
    """
    batches = non_empty_batches(batches)
    by_name = {node.name: node for node in description.nodes}
    arrays = dict(arrays)
    (pairs, left), kept = find_pairs(description, Relu6.EXACT), []
    for pair in pairs:
        if reason := _why_not(pair, by_name, arrays=arrays):
            left.append(f"{pair.first}: {reason}")
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
    return Absorption(description, arrays, absorbed=absorbed, left=tuple(left))


def _why_not(pair, by_name: dict[str, Node], *, arrays) -> str:
    first, second = by_name[pair.first], by_name[pair.second]
    kinds = [by_name[name].kind for name in pair.between]
    if kinds not in (["relu"], ["channel_limit"]):
        return f"between it and {second.name} stands {' and '.join(kinds) or 'no ReLU'}"
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


def _limit_key(pair, by_name: dict[str, Node]) -> str | None:
    """Of the array that holds a limit a channel between both layers; None without one."""
    (name,) = pair.between
    return f"{name}/limit" if by_name[name].kind == "channel_limit" else None


def _limit_of(pair, by_name: dict[str, Node], *, arrays) -> np.ndarray:
    """Largest value of each channel behind the ReLU, float64; infinite without a limit."""
    key = _limit_key(pair, by_name)
    return np.asarray(np.inf if key is None else arrays[key], np.float64)


def _observe(description, arrays, *, names: set[str], batches, ignore_empty: bool):
    """(mean, standard deviation, smallest value) of each channel, float64 [channels]."""
    sums: dict[str, list] = {}

    def add(node: Node, value, *, weights: PixelWeights | None) -> None:
        name = node.name
        if name not in names:
            return
        flat = np.asarray(value, np.float64).reshape(-1, value.shape[-1])
        share = np.ones(len(flat)) if weights is None else weights.of(value)
        smallest = flat[share > 0].min(0, initial=np.inf)
        found = [share.sum(), share @ flat, share @ np.square(flat), smallest]
        if name in sums:
            old = sums[name]
            found = [*(a + b for a, b in zip(old[:3], found[:3], strict=True)), None]
            found[3] = np.minimum(old[3], smallest)
        sums[name] = found

    executor = Executor(description, arrays)
    for batch, weights in zip(batches, pixel_weights(batches, ignore_empty), strict=True):
        executor.run(batch, functools.partial(add, weights=weights))
    return {
        name: (total / count, np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0)), low)
        for name, (count, total, squares, low) in sums.items()
    }

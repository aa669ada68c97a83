"""What a layer reads and gives at some of its output positions, for AdaRound to learn from."""

import dataclasses

import numpy as np

from deeplab_tf.graph.network import Node
from deeplab_tf.quantization.adaround.grid import Grid
from deeplab_tf.quantization.adaround.options import AdaRoundOptions

LARGEST_SAMPLE_BYTES = 2**28
"""A layer with wide windows keeps fewer positions, so that its sample stays below this."""


HELD_OUT_SHARE = 0.2
"""Of the positions: they do not teach, they judge what was learned."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Output positions of a layer, in the order of the photos.

    Attributes:
        windows: what the quantized layer reads there, float32 [positions, taps, channels].
        targets: what the float layer gives there, float32 [positions, channels].
        teaching: indices of positions to learn from, in random order.
        judging: indices of positions to judge by, of other photos where there are several.
    """

    windows: np.ndarray
    targets: np.ndarray
    teaching: np.ndarray
    judging: np.ndarray


def draw_sample(
    grid: Grid, inputs, *, outputs, options: AdaRoundOptions, random, every_weights
) -> Sample:
    """Draws positions of all batches; `every_weights`: one a batch, or None where all count."""
    taps = grid.exact[..., 0, 0].size
    window_bytes = 4 * taps * inputs[0].shape[-1]
    count = max(min(options.sample_pixels, LARGEST_SAMPLE_BYTES // window_bytes), 1)
    share = count / sum(len(batch) for batch in inputs)
    windows, targets = [], []
    for given, wanted, weights in zip(inputs, outputs, every_weights, strict=True):
        given, wanted = given.numpy(), wanted.numpy()
        flat = wanted.reshape(-1, wanted.shape[-1])
        counting = np.arange(len(flat))
        if weights is not None:
            counting = np.flatnonzero(weights.of(wanted) > 0)
        size = min(int(np.ceil(share * len(given))), len(counting))
        chosen = np.sort(random.choice(counting, size, replace=False))
        windows.append(
            windows_at(
                grid.node,
                grid.exact.shape,
                value=given,
                output_shape=wanted.shape,
                positions=chosen,
            )
        )
        targets.append(flat[chosen])
    windows, targets = np.concatenate(windows), np.concatenate(targets)
    cut = len(windows) - int(HELD_OUT_SHARE * len(windows))
    # Too few to hold any out: they judge what they taught.
    judging = np.arange(cut, len(windows)) if cut < len(windows) else np.arange(cut)
    return Sample(windows, targets, teaching=random.permutation(cut), judging=judging)


def windows_at(
    node: Node, kernel_shape, *, value: np.ndarray, output_shape, positions: np.ndarray
) -> np.ndarray:
    """What a layer reads for some positions of its output.

    Args:
        node: conv2d, depthwise_conv2d or dense.
        kernel_shape: of its kernel.
        value: its input, float32 [batch, height, width, channels]; dense: [..., channels].
        output_shape: of its output.
        positions: indices into the flattened output, without its channels.

    Returns:
        float32 [positions, kernel height * width, channels], 0 where padded.
    """
    if node.kind == "dense":
        return value.reshape(-1, 1, value.shape[-1])[positions]
    photo, row, column = np.unravel_index(positions, output_shape[:-1])
    rows, row_inside = _read_lines(
        node,
        0,
        position=row,
        taps=kernel_shape[0],
        size=value.shape[1],
        output_size=output_shape[1],
    )
    columns, column_inside = _read_lines(
        node,
        1,
        position=column,
        taps=kernel_shape[1],
        size=value.shape[2],
        output_size=output_shape[2],
    )
    windows = value[photo[:, None, None], rows[:, :, None], columns[:, None, :]]
    windows[~(row_inside[:, :, None] & column_inside[:, None, :])] = 0
    return windows.reshape(len(positions), -1, value.shape[-1])


def _read_lines(node: Node, axis: int, *, position, taps: int, size: int, output_size: int):
    """Input rows (or columns) [positions, taps] of output rows, and whether they exist."""
    stride, dilation = (
        int(np.broadcast_to(node.attributes.get(name, 1), 2)[axis])
        for name in ("strides", "dilation_rate")
    )
    padded = 0
    if node.attributes.get("padding", "valid").lower() == "same":
        padded = max((output_size - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    lines = position[:, None] * stride - padded // 2 + np.arange(taps) * dilation
    return np.clip(lines, 0, size - 1), (lines >= 0) & (lines < size)

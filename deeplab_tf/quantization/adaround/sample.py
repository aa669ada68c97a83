"""Samples of a layer's inputs and outputs at some of its output positions, for AdaRound."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.graph.network import Node
from deeplab_tf.quantization.adaround.grid import Grid
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.calibration.empty_pixels import PixelWeights

LARGEST_SAMPLE_BYTES = 2**28
"""Largest size of a sample; a layer with wide windows keeps fewer positions."""


HELD_OUT_SHARE = 0.2
"""Fraction of the positions that are not used for learning but for the final comparison."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """Output positions of a layer, in the order of the images.

    Attributes:
        windows: inputs of the quantized layer, float32 [positions, taps, channels].
        targets: outputs of the float layer, float32 [positions, channels].
        training_positions: indices of positions used for learning, in random order.
        held_out_positions: indices of positions used for the comparison, of other images if there
            are several.
    """

    windows: np.ndarray
    targets: np.ndarray
    training_positions: np.ndarray
    held_out_positions: np.ndarray


def draw_sample(
    grid: Grid,
    inputs: Sequence[tf.Tensor],
    *,
    outputs: Sequence[tf.Tensor],
    options: AdaRoundOptions,
    random: np.random.Generator,
    weights_of_batches: Sequence[PixelWeights | None],
) -> Sample:
    """Draws output positions of a layer from all batches.

    Args:
        grid: the layer's kernel.
        inputs: inputs of the quantized layer, one per batch.
        outputs: outputs of the float layer, one per batch.
        options: number of positions.
        random: source of random numbers.
        weights_of_batches: weights of the positions, one per batch; None if all count.

    Returns:
        The sample.
    """
    taps = grid.exact[..., 0, 0].size
    window_bytes = 4 * taps * inputs[0].shape[-1]
    count = max(min(options.sample_pixels, LARGEST_SAMPLE_BYTES // window_bytes), 1)
    share = count / sum(len(batch) for batch in inputs)
    windows_of_batches, targets_of_batches = [], []
    for input_tensor, output_tensor, weights in zip(
        inputs, outputs, weights_of_batches, strict=True
    ):
        value, output = input_tensor.numpy(), output_tensor.numpy()
        flat = output.reshape(-1, output.shape[-1])
        candidates = np.arange(len(flat))
        if weights is not None:
            candidates = np.flatnonzero(weights.of(output) > 0)
        size = min(int(np.ceil(share * len(value))), len(candidates))
        chosen = np.sort(random.choice(candidates, size, replace=False))
        windows_of_batches.append(
            windows_at(
                grid.node,
                grid.exact.shape,
                value=value,
                output_shape=output.shape,
                positions=chosen,
            )
        )
        targets_of_batches.append(flat[chosen])
    windows, targets = np.concatenate(windows_of_batches), np.concatenate(targets_of_batches)
    cut = len(windows) - int(HELD_OUT_SHARE * len(windows))
    # With too few positions to hold any out, the comparison uses the training positions.
    held_out = np.arange(cut, len(windows)) if cut < len(windows) else np.arange(cut)
    return Sample(
        windows,
        targets,
        training_positions=random.permutation(cut),
        held_out_positions=held_out,
    )


def windows_at(
    node: Node,
    kernel_shape: Sequence[int],
    *,
    value: np.ndarray,
    output_shape: Sequence[int],
    positions: np.ndarray,
) -> np.ndarray:
    """Collects the input windows of some output positions of a layer.

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
    image, row, column = np.unravel_index(positions, tuple(output_shape[:-1]))
    rows, row_inside = _input_lines(
        node,
        0,
        position=row,
        taps=kernel_shape[0],
        size=value.shape[1],
        output_size=output_shape[1],
    )
    columns, column_inside = _input_lines(
        node,
        1,
        position=column,
        taps=kernel_shape[1],
        size=value.shape[2],
        output_size=output_shape[2],
    )
    windows = value[image[:, None, None], rows[:, :, None], columns[:, None, :]]
    windows[~(row_inside[:, :, None] & column_inside[:, None, :])] = 0
    return windows.reshape(len(positions), -1, value.shape[-1])


def _input_lines(
    node: Node, axis: int, *, position: np.ndarray, taps: int, size: int, output_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the input rows (or columns) of output rows, and whether they exist.

    Both are [positions, taps]; rows in the padding are clipped to the input.
    """
    stride, dilation = (
        int(np.broadcast_to(node.attributes.get(name, 1), 2)[axis])
        for name in ("strides", "dilation_rate")
    )
    padded = 0
    if node.attributes.get("padding", "valid").lower() == "same":
        padded = max((output_size - 1) * stride + (taps - 1) * dilation + 1 - size, 0)
    lines = position[:, None] * stride - padded // 2 + np.arange(taps) * dilation
    return np.clip(lines, 0, size - 1), (lines >= 0) & (lines < size)

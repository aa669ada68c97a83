"""Axes of kernels: which hold the output channels and which the input channels.

conv2d            [height, width, in, out]
depthwise_conv2d  [height, width, in, multiplier], output channel = in * multiplier + m
conv2d_transpose  [height, width, out, in]
dense             [in, out]
"""

import numpy as np

from deeplab_tf.graph.network import Node

WITH_KERNEL = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "dense")

LARGEST_INT8 = 127
"""Largest int8 value in a narrow range, -127..127."""


def kernel_key(node: Node) -> str:
    """Returns the key of a node's kernel in the arrays: "name/kernel" or the depthwise form."""
    return f"{node.name}/{'depthwise_kernel' if node.kind == 'depthwise_conv2d' else 'kernel'}"


def bias_key(node: Node) -> str:
    """Returns the key of a node's bias in the arrays: "name/bias"."""
    return f"{node.name}/bias"


def output_channels(node: Node, kernel: np.ndarray) -> int:
    """Returns the number of channels that the node computes.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.
    """
    if node.kind == "depthwise_conv2d":
        return kernel.shape[2] * kernel.shape[3]
    return kernel.shape[2] if node.kind == "conv2d_transpose" else kernel.shape[-1]


def input_channels(node: Node, kernel: np.ndarray) -> int:
    """Returns the number of channels that the node reads.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.
    """
    if node.kind == "conv2d_transpose":
        return kernel.shape[3]
    return kernel.shape[-2] * int(node.attributes.get("groups", 1))


def along_outputs(node: Node, kernel: np.ndarray, *, values: np.ndarray) -> np.ndarray:
    """Reshapes values per output channel so that they broadcast over the kernel.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.
        values: [out channels].
    """
    if node.kind == "depthwise_conv2d":
        return values.reshape(kernel.shape[2:])
    return values[:, None] if node.kind == "conv2d_transpose" else values


def along_inputs(node: Node, values: np.ndarray) -> np.ndarray:
    """Reshapes values per input channel so that they broadcast over the kernel.

    Args:
        node: ungrouped convolution or dense layer.
        values: [in channels].
    """
    return values if node.kind == "conv2d_transpose" else values[:, None]


def response_to_constant(node: Node, kernel: np.ndarray, *, value: np.ndarray) -> np.ndarray:
    """Computes a kernel's output for an input that is the same at every pixel, without borders.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.
        value: of each input channel, [in channels].

    Returns:
        The output, [out channels].
    """
    if node.kind == "dense":
        return value @ kernel
    taps = kernel.sum((0, 1))
    if node.kind == "depthwise_conv2d":
        return (taps * value[:, None]).ravel()
    return taps @ value if node.kind == "conv2d_transpose" else value @ taps


def int8_scales(node: Node, kernel: np.ndarray, *, per_channel: bool) -> np.ndarray:
    """Computes the int8 scales of a kernel: max |kernel| / 127, or 1 where all weights are 0.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.
        per_channel: one scale per output channel; else the largest of them for all.

    Returns:
        float64 [out channels].
    """
    largest = largest_of_outputs(node, kernel.astype(np.float64))
    if not per_channel:
        largest = np.full_like(largest, largest.max(initial=0.0))
    return np.where(largest > 0, largest, LARGEST_INT8) / LARGEST_INT8


def largest_of_outputs(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Computes max |kernel| per output channel.

    Args:
        node: convolution or dense layer.
        kernel: its kernel.

    Returns:
        [out channels].
    """
    if node.kind == "depthwise_conv2d":
        return np.abs(kernel).max((0, 1)).ravel()
    axis = 2 if node.kind == "conv2d_transpose" else kernel.ndim - 1
    return np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis))


def largest_of_inputs(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Computes max |kernel| per input channel.

    Args:
        node: ungrouped convolution or dense layer.
        kernel: its kernel.

    Returns:
        [in channels].
    """
    axis = 3 if node.kind == "conv2d_transpose" else kernel.ndim - 2
    return np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis))

"""The axes of kernels: which belong to the output's channels, which to the input's.

conv2d            [height, width, in, out]
depthwise_conv2d  [height, width, in, multiplier], output channel = in * multiplier + m
conv2d_transpose  [height, width, out, in]
dense             [in, out]
"""

import numpy as np

from deeplab_tf.graph.network import Node

WITH_KERNEL = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "dense")


LARGEST_INT8 = 127
"""int8 in a narrow range, -127..127."""


def kernel_key(node: Node) -> str:
    """ "name/kernel" of a node's array."""
    return f"{node.name}/{'depthwise_kernel' if node.kind == 'depthwise_conv2d' else 'kernel'}"


def bias_key(node: Node) -> str:
    return f"{node.name}/bias"


def output_channels(node: Node, kernel: np.ndarray) -> int:
    if node.kind == "depthwise_conv2d":
        return kernel.shape[2] * kernel.shape[3]
    return kernel.shape[2] if node.kind == "conv2d_transpose" else kernel.shape[-1]


def input_channels(node: Node, kernel: np.ndarray) -> int:
    """Of the tensor that the node reads."""
    if node.kind == "conv2d_transpose":
        return kernel.shape[3]
    return kernel.shape[-2] * int(node.attributes.get("groups", 1))


def along_outputs(node: Node, kernel: np.ndarray, *, values: np.ndarray) -> np.ndarray:
    """Values [out channels] in a shape that broadcasts over the kernel."""
    if node.kind == "depthwise_conv2d":
        return values.reshape(kernel.shape[2:])
    return values[:, None] if node.kind == "conv2d_transpose" else values


def along_inputs(node: Node, values: np.ndarray) -> np.ndarray:
    """Values [in channels] in a shape that broadcasts over the kernel of an ungrouped node."""
    return values if node.kind == "conv2d_transpose" else values[:, None]


def response_to_constant(node: Node, kernel: np.ndarray, *, value: np.ndarray) -> np.ndarray:
    """What a kernel makes of an input that is the same at every pixel; borders not considered.

    Args:
        value: of each input channel, [in channels].

    Returns:
        [out channels].
    """
    if node.kind == "dense":
        return value @ kernel
    taps = kernel.sum((0, 1))
    if node.kind == "depthwise_conv2d":
        return (taps * value[:, None]).ravel()
    return taps @ value if node.kind == "conv2d_transpose" else value @ taps


def int8_scales(node: Node, kernel: np.ndarray, *, per_channel: bool) -> np.ndarray:
    """Max |kernel| / 127 of each output channel, or of the kernel; 1 where all weights are 0.

    Returns:
        float64 [out channels].
    """
    largest = largest_of_outputs(node, kernel.astype(np.float64))
    if not per_channel:
        largest = np.full_like(largest, largest.max(initial=0.0))
    return np.where(largest > 0, largest, LARGEST_INT8) / LARGEST_INT8


def largest_of_outputs(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Max |kernel| of each output channel, [out channels]."""
    if node.kind == "depthwise_conv2d":
        return np.abs(kernel).max((0, 1)).ravel()
    axis = 2 if node.kind == "conv2d_transpose" else kernel.ndim - 1
    return np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis))


def largest_of_inputs(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Max |kernel| of each input channel, [in channels]; for ungrouped nodes."""
    axis = 3 if node.kind == "conv2d_transpose" else kernel.ndim - 2
    return np.abs(kernel).max(tuple(i for i in range(kernel.ndim) if i != axis))

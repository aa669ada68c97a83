"""A kernel on its int8 grid: each weight lies between the steps below and above."""

import dataclasses

import numpy as np

from deeplab_tf.graph.kernels import along_outputs, int8_scales, output_channels
from deeplab_tf.graph.network import Node

ON_GRID = 1e-4
"""Tolerance in steps; float32 rounding changes the weights of a kernel by up to 127 * 2^-24."""


@dataclasses.dataclass(frozen=True)
class Grid:
    """A kernel on its int8 grid.

    Attributes:
        node: the layer.
        exact: kernel / scale, float64, in the kernel's shape.
        scales: one per output channel, float64 [channels]; 1 where all weights are 0.
    """

    node: Node
    exact: np.ndarray
    scales: np.ndarray

    @classmethod
    def from_kernel(cls, node: Node, kernel: np.ndarray, *, per_channel: bool) -> "Grid":
        """Builds the grid of a kernel.

        Args:
            node: the layer.
            kernel: its kernel.
            per_channel: one scale per output channel; False for one per kernel.

        Returns:
            The grid.
        """
        kernel = kernel.astype(np.float64)
        scales = int8_scales(node, kernel, per_channel=per_channel)
        return cls(node, kernel / along_outputs(node, kernel, values=scales), scales)

    @property
    def nearest(self) -> np.ndarray:
        """Nearest step of each weight."""
        return np.rint(self.exact)

    @property
    def fixed(self) -> np.ndarray:
        """Mask of weights that are on the grid already, such as zeros and the largest."""
        return np.abs(self.exact - self.nearest) < ON_GRID

    @property
    def below(self) -> np.ndarray:
        """Step below each weight; for weights on the grid, their own step."""
        return np.where(self.fixed, self.nearest, np.floor(self.exact))

    def kernel(self, steps: np.ndarray) -> np.ndarray:
        """Converts steps to weights, float32."""
        return (steps * along_outputs(self.node, self.exact, values=self.scales)).astype(np.float32)

    @property
    def groups(self) -> int:
        """Number of groups; one per channel for a depthwise convolution."""
        if self.node.kind == "depthwise_conv2d":
            return self.exact.shape[2]
        return int(self.node.attributes.get("groups", 1))

    def matrix(self, values: np.ndarray) -> np.ndarray:
        """Reshapes values from the kernel's shape to [groups, inputs, outputs]."""
        channels = output_channels(self.node, self.exact)
        split = values.reshape(-1, self.groups, channels // self.groups)
        return split.transpose(1, 0, 2)

    def from_matrix(self, values: np.ndarray) -> np.ndarray:
        """Reshapes values from [groups, inputs, outputs] to the kernel's shape."""
        return values.transpose(1, 0, 2).reshape(self.exact.shape)

    def row(self, values: np.ndarray) -> np.ndarray:
        """Reshapes one value per output channel to [groups, 1, outputs]."""
        return values.reshape(self.groups, 1, -1)

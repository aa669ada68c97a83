"""What a layer with a kernel reads and computes, as rows of a linear least-squares problem.

A convolution at one output pixel is a product of the pixels under its kernel, one row of
kernel height * kernel width * channels features, and the kernel as a matrix [features, outputs].
A transposed convolution is taken as a product with each input pixel, whose outputs are added
where they overlap.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from deeplab_tf.graph.network import Node

ROWS_PER_IMAGE = 3000
"""Pixels of one image that statistics are taken of, evenly spread, at most."""


def as_matrix(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Returns a kernel as float64 [features, outputs], the features of a pixel's channels last.

    Args:
        node: layer that mixes channels.
        kernel: its kernel.
    """
    kernel = kernel.astype(np.float64)
    if node.kind == "conv2d_transpose":
        return kernel.reshape(-1, kernel.shape[-1]).T
    return kernel.reshape(-1, kernel.shape[-1])


def as_kernel(node: Node, matrix: np.ndarray, *, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the kernel of a matrix, float32.

    Args:
        node: layer that mixes channels.
        matrix: [features, outputs].
        shape: of the kernel.
    """
    if node.kind == "conv2d_transpose":
        matrix = matrix.T
    return matrix.reshape(shape).astype(np.float32)


def features_of_channels(node: Node, channels: int, *, kernel: np.ndarray) -> np.ndarray:
    """Returns the features that each channel has: int64 [channels, features of one channel].

    Args:
        node: layer that mixes channels.
        channels: number of channels that it reads.
        kernel: its kernel.
    """
    pixels = 1
    if node.kind == "conv2d":
        pixels = kernel.shape[0] * kernel.shape[1]
    return np.arange(channels * pixels).reshape(pixels, channels).T


def input_rows(node: Node, value: tf.Tensor, *, kernel: np.ndarray) -> np.ndarray:
    """Returns the features of every output pixel of one image, float32 [pixels, features].

    Args:
        node: layer that mixes channels.
        value: what it reads, float32 [1, ..., channels].
        kernel: its kernel.
    """
    if node.kind == "conv2d":
        settings = node.attributes
        strides, rates = _pair(settings.get("strides", 1)), _pair(settings.get("dilation_rate", 1))
        value = tf.image.extract_patches(
            value,
            sizes=[1, *kernel.shape[:2], 1],
            strides=[1, *strides, 1],
            rates=[1, *rates, 1],
            padding=str(settings.get("padding", "valid")).upper(),
        )
    return np.asarray(tf.reshape(value, (-1, value.shape[-1])))


def evenly(rows: np.ndarray, count: int = ROWS_PER_IMAGE) -> np.ndarray:
    """Returns evenly spread rows, at most `count`; the same ones for equally long arrays."""
    if len(rows) <= count:
        return rows
    return rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]


def _pair(value: int | list[int] | tuple[int, ...]) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return int(value[0]), int(value[1])


@dataclasses.dataclass
class Moments:
    """Sums over the rows of all images.

    Attributes:
        count: rows.
        sums: of the features, float64 [features].
        products: of all pairs of features, float64 [features, features].
    """

    count: int
    sums: np.ndarray
    products: np.ndarray

    @classmethod
    def of(cls, rows: np.ndarray) -> "Moments":
        """Returns the sums of one image's rows.

        Args:
            rows: float [rows, features].
        """
        exact = rows.astype(np.float64)
        return cls(len(rows), exact.sum(0), exact.T @ exact)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(
            self.count + other.count, self.sums + other.sums, self.products + other.products
        )

    @property
    def mean(self) -> np.ndarray:
        """Mean of each feature."""
        return self.sums / self.count

    @property
    def covariance(self) -> np.ndarray:
        """Covariance of the features, [features, features]."""
        return self.products / self.count - np.outer(self.mean, self.mean)

"""Chooses the channels of a group that the layers behind it can best do without.

With C the covariance of what a layer reads and W its kernel as a matrix [features, outputs],
leaving out the features B of a channel and fitting the others again costs

    error(B) = trace(f W_B' (inv(C)_BB)^-1 W_B),    W <- W - inv(C)_:B (inv(C)_BB)^-1 W_B

which is the smallest error of the layer's output that least squares can reach (the elimination step
of optimal brain surgeon, Hassibi & Stork 1993, for whole channels; He et al. 2017, channel
pruning, arXiv:1707.06168, solves the same problem with a lasso). Channels are eliminated one at a
time, so that of two equal channels one is kept. f weights the outputs of a layer by the effect that
a change of them has on the network's output; it makes errors of different layers comparable.

A small multiple of the mean variance is added to the diagonal of C: it holds the new kernel near
the old one where a few images do not determine it.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from deeplab_tf.graph.kernels import bias_key, kernel_key
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.pruning.channel_groups import ChannelGroup, ChannelMap
from deeplab_tf.pruning.layer_inputs import Moments, as_kernel, as_matrix, features_of_channels

RIDGE = 1e-3
"""Added to the diagonal of a covariance, times its mean."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """A layer that reads a group's channels, and what selection needs to know of it.

    Attributes:
        node: the layer.
        moments: of what it reads.
        effect: effect of a change of each output on the network's output, [outputs]
            (`sensitivity.measure_effects`).
    """

    node: Node
    moments: Moments
    effect: np.ndarray


@dataclasses.dataclass(frozen=True)
class Selection:
    """A group with fewer channels.

    Attributes:
        kept: how many channels.
        removed: ids of the others.
        arrays: kernels and biases of the layers that read the group, fitted again; rows of removed
            channels are 0.
        error: predicted squared error of the network's output, summed over its values, per image.
    """

    kept: int
    removed: tuple[int, ...]
    arrays: dict[str, np.ndarray]
    error: float


def ridge_of(covariance: np.ndarray) -> float:
    """Returns what is added to the diagonal of a covariance matrix."""
    return RIDGE * max(float(np.trace(covariance)) / len(covariance), 1e-12)


class _Elimination:
    """The kernel of one reader while features are eliminated."""

    def __init__(
        self, reader: Reader, ids: np.ndarray, *, arrays: Mapping[str, np.ndarray]
    ) -> None:
        self.reader, self.node = reader, reader.node
        self.kernel, self.bias = (arrays[key(self.node)] for key in (kernel_key, bias_key))
        covariance = reader.moments.covariance
        covariance[np.diag_indices_from(covariance)] += ridge_of(covariance)
        self._inverse = np.linalg.inv(covariance)
        self._weights = as_matrix(self.node, self.kernel)
        self._first = self._weights.copy()
        taps = self._weights.shape[1] // len(reader.effect)  # of a transposed convolution
        self._effect = np.tile(reader.effect, taps)
        blocks = features_of_channels(self.node, len(ids), kernel=self.kernel)
        self.features = {
            int(channel): blocks[ids == channel].ravel() for channel in dict.fromkeys(ids.tolist())
        }

    def errors(self, channels: np.ndarray) -> np.ndarray:
        """Returns the error of eliminating each channel next, [channels]."""
        blocks = np.stack([self.features[int(channel)] for channel in channels])
        weights = self._weights[blocks] * np.sqrt(self._effect)
        if blocks.shape[1] == 1:
            diagonal = self._inverse[blocks[:, 0], blocks[:, 0]]
            return np.square(weights[:, 0]).sum(-1) / diagonal
        inner = self._inverse[blocks[:, :, None], blocks[:, None, :]]
        return np.einsum("cbo,cbo->c", weights, np.linalg.solve(inner, weights))

    def eliminate(self, channel: int) -> None:
        """Sets a channel's rows to 0 and fits the others."""
        block = self.features[channel]
        columns = self._inverse[:, block]
        factors = np.linalg.solve(columns[block], np.eye(len(block)))
        scaled = columns @ factors
        self._weights -= scaled @ self._weights[block]
        self._inverse -= scaled @ columns.T
        self._weights[block] = 0
        self._inverse[block] = 0
        self._inverse[:, block] = 0
        self._inverse[block, block] = 1  # never chosen again, but must not be divided by

    def fitted(self) -> dict[str, np.ndarray]:
        """Returns the kernel, and the bias that keeps the mean of each output."""
        arrays = {
            kernel_key(self.node): as_kernel(self.node, self._weights, shape=self.kernel.shape)
        }
        if self.node.kind != "conv2d_transpose":
            shift = self.reader.moments.mean @ (self._first - self._weights)
            arrays[bias_key(self.node)] = (self.bias + shift).astype(np.float32)
        return arrays


def select_channels(
    group: ChannelGroup,
    channels: ChannelMap,
    *,
    readers: Sequence[Reader],
    arrays: Mapping[str, np.ndarray],
    keep: Sequence[int],
    scores: Mapping[int, float] | None = None,
) -> list[Selection]:
    """Eliminates the channels of a group one by one.

    Args:
        group: the group.
        channels: of the network.
        readers: the layers that read the group.
        arrays: the network's weights, with a bias for each reader (`removal.with_biases`).
        keep: numbers of channels to stop at, each below the group's.
        scores: {channel: importance}; the least important are removed first. None: those whose
            removal costs the least error, as above.

    Returns:
        One selection for each number, in decreasing order.
    """
    eliminations = [
        _Elimination(reader, channels.read_by(reader.node), arrays=arrays) for reader in readers
    ]
    left = np.array(group.channels)
    error, found = 0.0, []
    for count in sorted(set(keep), reverse=True):
        while len(left) > count:
            errors = np.sum([each.errors(left) for each in eliminations], axis=0)
            ranked = errors if scores is None else np.array([scores[int(c)] for c in left])
            place = int(ranked.argmin())
            error += float(errors[place])
            for each in eliminations:
                each.eliminate(int(left[place]))
            left = np.delete(left, place)
        fitted: dict[str, np.ndarray] = {}
        for each in eliminations:
            fitted |= each.fitted()
        removed = tuple(sorted(set(group.channels) - set(left.tolist())))
        found.append(Selection(len(left), removed, fitted, error))
    return found


def readers_of(group: ChannelGroup, description: NetworkGraph) -> list[Node]:
    """Returns the nodes that read a group's channels."""
    return [description.node(name) for name in group.consumers]

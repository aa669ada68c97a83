"""Loads weights into a network, layer by layer, and reports every layer that does not match."""

import dataclasses
import pathlib
import typing
from collections.abc import Collection, Sequence

import h5py
import numpy as np
import tf_keras as keras

from deeplab_tf.weights.hdf5 import open_hdf5

layers = keras.layers
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class MatchReport:
    """Result of loading weights.

    Attributes:
        matched: layers that received weights.
        missing: layers without given weights, which keep their initial weights.
        mismatched: "layer: expected shapes ..., got ...".
        unused: given layers that the network does not have.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        """Formats the report, one line per kind."""
        lines = [f"{len(self.matched)} layers received weights"]
        for word in ("missing", "mismatched", "unused"):
            names = getattr(self, word)
            if names:
                lines.append(f"{len(names)} {word}: " + ", ".join(names))
        return lines


class ConvolutionLike(typing.Protocol):
    """A convolution with its weights, as `load_convolutions` takes it."""

    @property
    def name(self) -> str:
        """Name for the report."""

    @property
    def depthwise(self) -> bool:
        """Whether it is a depthwise convolution."""

    @property
    def kernel(self) -> np.ndarray:
        """Kernel in the layout of Keras."""

    @property
    def bias(self) -> np.ndarray:
        """float32 [channels]."""

    @property
    def sources(self) -> Collection[int]:
        """Indices of the nearest convolutions before it; empty for the image."""


def layer_arrays(layer: keras.layers.Layer) -> dict[str, np.ndarray]:
    """Returns the weights of a layer by their short name ("kernel", "moving_mean", ...)."""
    return {
        variable.name.split("/")[-1].split(":")[0]: value
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True)
    }


def named_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns all weights of a flat model, keyed "layer/weight"."""
    return {
        f"{layer.name}/{name}": value
        for layer in model.layers
        for name, value in layer_arrays(layer).items()
    }


def load_named(
    model: keras.Model, arrays: dict[str, np.ndarray], *, only: Collection[str] | None = None
) -> MatchReport:
    """Loads "layer/weight" arrays into the layers of the same name.

    A layer receives all of its weights or none.

    Args:
        model: flat model; changed in place.
        arrays: weights, keyed "layer/weight".
        only: names of the layers that may receive weights; None for all.

    Returns:
        Which layers matched.

    Raises:
        ValueError: no layer matched.
    """
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        layer_name, _, weight = key.rpartition("/")
        by_layer.setdefault(layer_name, {})[weight] = value
    matched, missing, mismatched = [], [], []
    for layer in _layers(model, only):
        if not layer.weights:
            continue
        source = by_layer.pop(layer.name, None)
        expected = layer_arrays(layer)
        if source is None:
            missing.append(layer.name)
        elif {name: value.shape for name, value in source.items()} != {
            name: value.shape for name, value in expected.items()
        }:
            mismatched.append(
                f"{layer.name}: expected shapes {[v.shape for v in expected.values()]}, "
                f"got {[v.shape for v in source.values()]}"
            )
        else:
            layer.set_weights([source[name] for name in expected])
            matched.append(layer.name)
    if not matched:
        raise ValueError(
            "no layer of the network matches the given weights; were they made for another network?"
        )
    return MatchReport(
        tuple(matched), tuple(missing), mismatched=tuple(mismatched), unused=tuple(by_layer)
    )


def _layers(model: keras.Model, only: Collection[str] | None) -> list[keras.layers.Layer]:
    return [layer for layer in model.layers if only is None or layer.name in only]


def load_convolutions(
    model: keras.Model,
    convolutions: Sequence[ConvolutionLike],
    *,
    only: Collection[str] | None = None,
) -> MatchReport:
    """Loads convolutions with folded batch norms into the backbone of a network.

    Two convolutions match if they have the same kind and shape and read from matching convolutions;
    order alone would confuse the branches of residual blocks. Kernels are copied; the bias becomes
    the offset of the following batch norm, which is otherwise set to the identity. Convolutions
    without a match (of a classifier, of a segmentation head) are not part of the backbone.

    Args:
        model: flat Functional graph; changed in place.
        convolutions: in the order of execution, for example
            `tflite_tools.to_keras.convolution_weights.Convolution`.
        only: names of the layers that may receive weights; None for all. A head may have a
            convolution of the shape and place of a classifier's.

    Returns:
        Which layers matched.

    Raises:
        ValueError: no convolution matches.
    """
    own = [layer for layer in _layers(model, only) if isinstance(layer, _CONVOLUTIONS)]
    partners: dict[str, int] = {}
    for layer in own:
        sources = frozenset(partners.get(name, -1) for name in _source_convolutions(layer))
        partner = next(
            (
                index
                for index, source in enumerate(convolutions)
                if index not in partners.values() and _is_match(layer, source, sources=sources)
            ),
            None,
        )
        if partner is not None:
            partners[layer.name] = partner
            _set_folded(layer, convolutions[partner].kernel, bias=convolutions[partner].bias)
    if not partners:
        raise ValueError(
            f"no convolution of the given weights fits the network; expected first "
            f"{tuple(own[0].weights[0].shape)} ({own[0].name}), got {convolutions[0].kernel.shape}"
            if convolutions
            else "the given weights contain no convolution"
        )
    used = set(partners.values())
    missing = tuple(layer.name for layer in own if layer.name not in partners)
    unused = tuple(source.name for i, source in enumerate(convolutions) if i not in used)
    return MatchReport(tuple(partners), missing, mismatched=(), unused=unused)


def _is_match(
    layer: keras.layers.Layer, source: ConvolutionLike, *, sources: frozenset[int]
) -> bool:
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    shape = tuple(layer.weights[0].shape)
    return (
        depthwise == source.depthwise
        and shape == source.kernel.shape
        and sources == frozenset(source.sources)
    )


def _source_convolutions(layer: keras.layers.Layer) -> set[str]:
    """Returns the names of the nearest convolutions that a layer's input is computed from."""
    found = set()
    waiting = [node.layer for node in layer.inbound_nodes[0].parent_nodes]
    while waiting:
        before = waiting.pop()
        if isinstance(before, _CONVOLUTIONS):
            found.add(before.name)
        elif before.inbound_nodes:
            waiting += [node.layer for node in before.inbound_nodes[0].parent_nodes]
    return found


def _set_folded(layer: keras.layers.Layer, kernel: np.ndarray, *, bias: np.ndarray) -> None:
    if layer.use_bias:
        layer.set_weights([kernel, bias])
        return
    layer.set_weights([kernel])
    follower = layer.outbound_nodes[0].outbound_layer
    if not isinstance(follower, layers.BatchNormalization):
        raise ValueError(f"layer {layer.name} has neither a bias nor a batch norm to hold one")
    ones, zeros = np.ones_like(bias), np.zeros_like(bias)
    follower.set_weights([ones, bias, zeros, ones - follower.epsilon])


_KERAS3_NAMES = {
    layers.Conv2D: "conv2d",
    layers.DepthwiseConv2D: "depthwise_conv2d",
    layers.BatchNormalization: "batch_normalization",
    layers.Dense: "dense",
}


def load_h5(
    model: keras.Model, path: str | pathlib.Path, *, only: Collection[str] | None = None
) -> MatchReport:
    """Loads a Keras weights file without running any code in it.

    Keras 2 stores layers by name. Keras 3 (`.weights.h5`) stores them by kind and number
    (`conv2d_3`), so they are matched with this network's layers of the same kind in graph order;
    one layer more or less would shift all that follow, so all of them must match.

    Args:
        model: flat model; changed in place.
        path: of the file.
        only: names of the layers that may receive weights, the backbone's; None for all. The
            file's further layers (a classifier) follow those of the backbone.

    Returns:
        Which layers matched.

    Raises:
        ValueError: not a Keras weights file, nothing matches, or layers that are matched by
            position do not all fit.
    """
    arrays = read_h5(path)
    if not any(key.rpartition("/")[2].isdigit() for key in arrays):
        return load_named(model, arrays, only=only)
    named, unused = {}, {key.rpartition("/")[0] for key in arrays}
    for kind, stored in _KERAS3_NAMES.items():
        own = [layer for layer in _layers(model, only) if type(layer) is kind]
        for number, layer in enumerate(own):
            prefix = f"{stored}_{number}" if number else stored
            unused.discard(prefix)
            for position, weight in enumerate(layer_arrays(layer)):
                value, expected = arrays.get(f"{prefix}/{position}"), layer_arrays(layer)[weight]
                if value is None or value.shape != expected.shape:
                    found = "nothing" if value is None else str(value.shape)
                    raise ValueError(
                        f"{path}: layers are numbered, not named, so all must fit in their order; "
                        f"{layer.name}/{weight}: expected {expected.shape}, found {found} "
                        f"({prefix}); give the weights of the same network and width"
                    )
                named[f"{layer.name}/{weight}"] = value
    report = load_named(model, named, only=only)
    return dataclasses.replace(report, unused=(*report.unused, *sorted(unused)))


def read_h5(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a Keras weights file without running any code in it.

    Reads both layouts: Keras 2 (`<layer>/<layer>/kernel:0`) and Keras 3 (`layers/<layer>/vars/0`,
    whose names are positions: "0" is the kernel, or gamma, beta, mean, variance in that order).

    Args:
        path: of the file.

    Returns:
        {"layer/weight": array}.

    Raises:
        ValueError: not an HDF5 file of plain numbers, NaN or infinity, or neither of the layouts.
    """
    arrays: dict[str, np.ndarray] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        parts = name.split("/")
        if "vars" in parts[1:]:
            layer = parts[parts.index("vars", 1) - 1]
            arrays[f"{layer}/{parts[-1]}"] = np.asarray(item)
        elif len(parts) > 1 and parts[-1].endswith(":0"):
            arrays[f"{parts[-2]}/{parts[-1].removesuffix(':0')}"] = np.asarray(item)

    try:
        with open_hdf5(path) as content:
            content.visititems(visit)
    except (OSError, KeyError, RuntimeError) as error:  # RuntimeError: damaged inside
        raise ValueError(f"{path}: not an HDF5 weights file ({error})") from error
    if not arrays:
        raise ValueError(f"{path}: expected layer weights in a layout of Keras 2 or 3, got none")
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} contains NaN or infinity; the training diverged")
    return arrays

"""Weights from elsewhere into a network: matched layer by layer, every miss reported."""

import dataclasses

import h5py
import numpy as np
import tf_keras as keras

from deeplab_tf.weights.hdf5 import open_hdf5

layers = keras.layers
_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D)


@dataclasses.dataclass(frozen=True)
class MatchReport:
    """What a transfer of weights did.

    Attributes:
        matched: layers that received weights.
        missing: layers of the network that found none and keep their initial weights.
        mismatched: "layer: wanted shape, found shape".
        unused: sources that no layer wanted.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]

    def lines(self) -> list[str]:
        lines = [f"{len(self.matched)} layers received weights"]
        for word in ("missing", "mismatched", "unused"):
            names = getattr(self, word)
            if names:
                lines.append(f"{len(names)} {word}: " + ", ".join(names))
        return lines


def layer_arrays(layer) -> dict[str, np.ndarray]:
    """Weights of a layer by their short name ("kernel", "moving_mean", ...)."""
    return {
        variable.name.split("/")[-1].split(":")[0]: value
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True)
    }


def named_arrays(model: keras.Model) -> dict[str, np.ndarray]:
    """All weights of a flat model, keyed "layer/weight"."""
    return {
        f"{layer.name}/{name}": value
        for layer in model.layers
        for name, value in layer_arrays(layer).items()
    }


def load_named(model: keras.Model, arrays: dict[str, np.ndarray]) -> MatchReport:
    """Loads "layer/weight" arrays into the layers of the same name.

    A layer is loaded whole or not at all.

    Raises:
        ValueError: not one layer matched.
    """
    by_layer: dict[str, dict[str, np.ndarray]] = {}
    for key, value in arrays.items():
        layer_name, _, weight = key.rpartition("/")
        by_layer.setdefault(layer_name, {})[weight] = value
    matched, missing, mismatched = [], [], []
    for layer in model.layers:
        if not layer.weights:
            continue
        source = by_layer.pop(layer.name, None)
        wanted = layer_arrays(layer)
        if source is None:
            missing.append(layer.name)
        elif {name: value.shape for name, value in source.items()} != {
            name: value.shape for name, value in wanted.items()
        }:
            mismatched.append(
                f"{layer.name}: wanted {[v.shape for v in wanted.values()]}, "
                f"found {[v.shape for v in source.values()]}"
            )
        else:
            layer.set_weights([source[name] for name in wanted])
            matched.append(layer.name)
    if not matched:
        raise ValueError(
            "no layer of the network matches the given weights; were they made for another network?"
        )
    return MatchReport(
        tuple(matched), tuple(missing), mismatched=tuple(mismatched), unused=tuple(by_layer)
    )


def load_convolutions(model: keras.Model, convolutions) -> MatchReport:
    """Loads folded convolutions into a network's own, for a backbone start.

    Two belong together that are of one kind and shape and read from the same convolutions: lists
    alone would mix up the branches of residual blocks. Kernels go in as they are; the bias becomes
    the offset of the batch norm behind, which is set to the identity otherwise. What has no
    partner (a classifier, a segmentation head) is not the backbone.

    Args:
        model: flat Functional graph; changed in place.
        convolutions: objects with name, depthwise, kernel, bias, Keras layout, and sources
            (`tflite_tools.to_keras.convolution_weights.Convolution`), in the order of execution.

    Raises:
        ValueError: no convolution matches.
    """
    own = [layer for layer in model.layers if isinstance(layer, _CONVOLUTIONS)]
    partners: dict[str, int] = {}
    for layer in own:
        sources = frozenset(partners.get(name, -1) for name in _source_convolutions(layer))
        partner = next(
            (
                index
                for index, source in enumerate(convolutions)
                if index not in partners.values() and _are_alike(layer, source, sources=sources)
            ),
            None,
        )
        if partner is not None:
            partners[layer.name] = partner
            _set_folded(layer, convolutions[partner].kernel, bias=convolutions[partner].bias)
    if not partners:
        raise ValueError(
            f"no convolution of the given weights fits the network; its first is {own[0].name} "
            f"{tuple(own[0].weights[0].shape)}, theirs {convolutions[0].kernel.shape}"
            if convolutions
            else "the given weights hold no convolution"
        )
    used = set(partners.values())
    missing = tuple(layer.name for layer in own if layer.name not in partners)
    unused = tuple(source.name for i, source in enumerate(convolutions) if i not in used)
    return MatchReport(tuple(partners), missing, mismatched=(), unused=unused)


def _are_alike(layer, source, *, sources: frozenset[int]) -> bool:
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    shape = tuple(layer.weights[0].shape)
    return (
        depthwise == source.depthwise
        and shape == source.kernel.shape
        and sources == frozenset(source.sources)
    )


def _source_convolutions(layer) -> set[str]:
    """Names of the nearest convolutions that a layer's input is computed from."""
    found = set()
    waiting = [node.layer for node in layer.inbound_nodes[0].parent_nodes]
    while waiting:
        before = waiting.pop()
        if isinstance(before, _CONVOLUTIONS):
            found.add(before.name)
        elif before.inbound_nodes:
            waiting += [node.layer for node in before.inbound_nodes[0].parent_nodes]
    return found


def _set_folded(layer, kernel, *, bias) -> None:
    if layer.use_bias:
        layer.set_weights([kernel, bias])
        return
    layer.set_weights([kernel])
    follower = layer.outbound_nodes[0].outbound_layer
    if not isinstance(follower, layers.BatchNormalization):
        raise ValueError(f"layer {layer.name} has neither a bias nor a batch norm for one")
    ones, zeros = np.ones_like(bias), np.zeros_like(bias)
    follower.set_weights([ones, bias, zeros, ones - follower.epsilon])


_KERAS3_NAMES = {
    layers.Conv2D: "conv2d",
    layers.DepthwiseConv2D: "depthwise_conv2d",
    layers.BatchNormalization: "batch_normalization",
    layers.Dense: "dense",
}


def load_h5(model: keras.Model, path) -> MatchReport:
    """Loads a Keras weights file, without running anything that it may carry.

    Keras 2 stores layers by name. Keras 3 (`.weights.h5`) stores them by kind and number
    (`conv2d_3`), so they are matched with this network's layers of the same kind in graph order.

    Raises:
        ValueError: not such a file, or nothing matches.
    """
    arrays = read_h5(path)
    if not any(key.rpartition("/")[2].isdigit() for key in arrays):
        return load_named(model, arrays)
    named = {}
    for kind, stored in _KERAS3_NAMES.items():
        own = [layer for layer in model.layers if type(layer) is kind]
        for number, layer in enumerate(own):
            prefix = f"{stored}_{number}" if number else stored
            for position, weight in enumerate(layer_arrays(layer)):
                if (value := arrays.get(f"{prefix}/{position}")) is not None:
                    named[f"{layer.name}/{weight}"] = value
    return load_named(model, named)


def read_h5(path) -> dict[str, np.ndarray]:
    """Arrays of a Keras weights file, without running anything that it may carry.

    Reads both layouts: Keras 2 (`<layer>/<layer>/kernel:0`) and Keras 3 (`layers/<layer>/vars/0`,
    whose names are positions: "0" is the kernel, or gamma, beta, mean, variance in that order).

    Raises:
        ValueError: not an HDF5 file of plain numbers, NaN or infinity, or none of the two layouts.
    """
    arrays: dict[str, np.ndarray] = {}

    def visit(name, item):
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
        raise ValueError(f"{path}: holds no layer weights in a layout of Keras 2 or 3")
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{path}: {name} holds NaN or infinity; the training diverged")
    return arrays

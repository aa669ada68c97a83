"""Weights from elsewhere into a network: matched layer by layer, every miss reported."""

import dataclasses

import h5py
import numpy as np
import tf_keras as keras

layers = keras.layers


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
    return MatchReport(tuple(matched), tuple(missing), tuple(mismatched), tuple(by_layer))


def load_convolution_sequence(model: keras.Model, convolutions) -> MatchReport:
    """Loads folded convolutions into a network's own, both in graph order, for a backbone start.

    Kernels go in as they are; the bias becomes the offset of the batch norm behind, which is
    set to the identity otherwise. Matching stops at the first difference in kind or shape:
    what comes after (a classifier, a segmentation head) is not the backbone.

    Args:
        model: flat Functional graph; changed in place.
        convolutions: objects with name, depthwise, kernel and bias, Keras layout
            (`tflite_tools.convolution_weights.Convolution`).

    Raises:
        ValueError: not even the first convolution matches.
    """
    kinds = (layers.Conv2D, layers.DepthwiseConv2D)
    own = [layer for layer in model.layers if isinstance(layer, kinds)]
    matched: list[str] = []
    mismatched: list[str] = []
    for layer, source in zip(own, convolutions, strict=False):
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        shape = tuple(layer.weights[0].shape)
        if depthwise != source.depthwise or shape != source.kernel.shape:
            mismatched.append(f"{layer.name}: wanted {shape}, found {source.kernel.shape}")
            break
        _set_folded(layer, source.kernel, source.bias)
        matched.append(layer.name)
    if not matched:
        raise ValueError(f"the given weights do not start with this backbone ({mismatched[0]})")
    missing = tuple(layer.name for layer in own[len(matched) :])
    unused = tuple(source.name for source in convolutions[len(matched) :])
    return MatchReport(tuple(matched), missing, tuple(mismatched), unused)


def _set_folded(layer, kernel, bias) -> None:
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
        ValueError: not an HDF5 file, or none of the two layouts.
    """
    arrays: dict[str, np.ndarray] = {}

    def visit(name, item):
        if not isinstance(item, h5py.Dataset):
            return
        parts = name.split("/")
        if "vars" in parts:
            layer = parts[parts.index("vars") - 1]
            arrays[f"{layer}/{parts[-1]}"] = np.asarray(item)
        elif parts[-1].endswith(":0"):
            arrays[f"{parts[-2]}/{parts[-1].removesuffix(':0')}"] = np.asarray(item)

    try:
        with h5py.File(path, "r") as content:
            content.visititems(visit)
    except OSError as error:
        raise ValueError(f"{path}: not an HDF5 weights file ({error})") from error
    if not arrays:
        raise ValueError(f"{path}: holds no layer weights in a layout of Keras 2 or 3")
    return arrays

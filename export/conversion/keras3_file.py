"""Reads the configuration and the weights of a Keras 3 file in the form that Keras 2 builds.

Stock layers have the same meaning in both; the file stores them differently: tensors between layers
as objects, number formats as policies, weights in groups by layer. A setting that Keras 2 does not
have is refused unless it has the value that changes nothing.
"""

import collections
import inspect
from typing import Any

import h5py
import numpy as np
import tf_keras as keras
from tf_keras.src.utils import generic_utils

from deeplab_tf.graph.stock_layers import LAYERS, NETWORKS

_TENSOR = "__keras_tensor__"
_RENAMED = {
    ("InputLayer", "batch_shape"): "batch_input_shape",
    ("LeakyReLU", "negative_slope"): "alpha",
}
_ONLY_FOR_TRAINING = ("_initializer", "_regularizer", "_constraint")
_WITHOUT_EFFECT = {
    "optional": (False,),
    "synchronized": (False,),
    "renorm": (False,),
    "renorm_clipping": (None,),
    "renorm_momentum": None,
    "pad_to_aspect_ratio": (False,),
    "fill_mode": None,
    "fill_value": None,
    "antialias": (False,),
    "seed": None,
    "noise_shape": (None,),
    "quantization_config": (None,),
    "lora_rank": (None,),
    "lora_alpha": (None,),
}
"""Settings that Keras 2 lacks: the values that change nothing; None: any value, because the setting
only matters beside another one or in training."""


def keras2_configuration(config: dict) -> dict:
    """Translates the configuration of a network.

    Args:
        config: of a Functional or Sequential network, as `config.json` holds it.

    Returns:
        the configuration for `keras.models.model_from_json`.

    Raises:
        ValueError: a layer, a setting or a connection that Keras 2 does not have.
    """
    try:
        return _network(config, name=str(config.get("class_name")))
    except (TypeError, AttributeError, LookupError, RecursionError) as error:
        raise ValueError(
            f"a value of another kind than expected ({type(error).__name__}: {error})"
        ) from error


def _network(config: dict, *, name: str) -> dict:
    inner = config.get("config")
    if config.get("class_name") not in NETWORKS or not isinstance(inner, dict):
        raise ValueError(f"expected a network of stock layers, got {name}")
    layers = inner.get("layers")
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ValueError(f"{name}: expected a list of layers")
    result = {"name": inner.get("name"), "layers": [_layer(layer) for layer in layers]}
    if config["class_name"] != "Sequential":
        for key in ("input_layers", "output_layers"):
            result[key] = _places(inner.get(key), name=f"{name}: {key}")
    return {"class_name": config["class_name"], "config": result}


def _places(value: Any, *, name: str) -> list:
    """Returns [[layer, node, tensor], ...]; a single one is stored without the outer list."""
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(place, list) for place in value):
        raise ValueError(f"{name}: expected [layer, node, tensor], got {value!r}")
    return value


def _layer(layer: dict) -> dict:
    kind, name = str(layer.get("class_name")), str(layer.get("name"))
    translated = (
        _network(layer, name=name)
        if kind in NETWORKS
        else {"class_name": kind, "config": _settings(kind, layer.get("config"), name=name)}
    )
    # A Sequential network names no connections.
    nodes = [_connection(node, name=name) for node in layer.get("inbound_nodes", [])]
    return {**translated, "name": name, "inbound_nodes": nodes}


def _settings(kind: str, config: Any, *, name: str) -> dict:
    if not isinstance(config, dict):
        raise ValueError(f"layer {name!r}: expected settings, got {config!r}")
    known = _arguments(kind)
    settings = {}
    for stored, value in config.items():
        key = _RENAMED.get((kind, stored), str(stored))
        if stored.endswith(_ONLY_FOR_TRAINING):
            continue
        if known is None or key in known:
            settings[key] = value
        elif stored not in _WITHOUT_EFFECT or value not in (_WITHOUT_EFFECT[stored] or (value,)):
            raise ValueError(
                f"layer {name!r}: {kind} of Keras 2 has no setting {stored} (here {value!r})"
            )
    return settings


def _arguments(kind: str) -> frozenset[str] | None:
    """Returns the settings of a layer of Keras 2; None where it has no such layer.

    A class that is no stock layer is refused later, by the check of the whole configuration.
    """
    layer = getattr(keras.layers, kind, None)
    if kind not in LAYERS or not inspect.isclass(layer):
        return None
    names = set(inspect.signature(layer.__init__).parameters) | {"name", "trainable", "dtype"}
    return frozenset(names | {"batch_input_shape"})


def _connection(node: Any, *, name: str) -> list:
    """Returns [[layer, node, tensor, {}], ...] of one call of a layer."""
    if not isinstance(node, dict):
        raise ValueError(f"layer {name!r}: expected the arguments of a call, got {node!r}")
    given = {k: v for k, v in (node.get("kwargs") or {}).items() if v not in (None, False)}
    args = node.get("args")
    if given or not isinstance(args, list) or len(args) != 1:
        raise ValueError(f"layer {name!r}: expected a call with tensors only, got more arguments")
    tensors = args[0] if isinstance(args[0], list) else args
    return [[*_history(tensor, name=name), {}] for tensor in tensors]


def _history(tensor: Any, *, name: str) -> list:
    if isinstance(tensor, dict) and tensor.get("class_name") == _TENSOR:
        config = tensor.get("config")
        history = config.get("keras_history") if isinstance(config, dict) else None
        if isinstance(history, list) and len(history) == 3:
            return history
    raise ValueError(f"layer {name!r}: expected a tensor of another layer, got {tensor!r:.100}")


def load_keras3_weights(model: keras.Model, config: dict, *, group: h5py.Group) -> None:
    """Loads the weights of a Keras 3 file.

    Args:
        model: the network.
        config: its configuration, from `keras2_configuration`.
        group: root of `model.weights.h5`.

    Raises:
        ValueError: the weights of a layer are missing or have other shapes.
    """
    layers = group.get("layers")
    if not isinstance(layers, h5py.Group):
        raise ValueError("expected a group 'layers' with the weights of each layer")
    stored = _stored_names(layers, config)
    for part in config["config"]["layers"]:
        layer = model.get_layer(part["name"])
        if not layer.weights:
            continue
        own = layers.get(stored.get(layer.name, ""))
        if not isinstance(own, h5py.Group):
            raise ValueError(f"no weights of layer {layer.name!r}")
        if isinstance(layer, keras.Model):
            load_keras3_weights(layer, part, group=own)
            continue
        variables = own.get("vars")
        numbers = sorted(variables, key=int) if isinstance(variables, h5py.Group) else []
        arrays = [np.asarray(variables[number]) for number in numbers]
        expected = [tuple(weight.shape) for weight in layer.weights]
        if [array.shape for array in arrays] != expected:
            found = ", ".join(str(array.shape) for array in arrays) or "none"
            raise ValueError(
                f"layer {layer.name!r}: expected weights of shapes "
                f"{', '.join(map(str, expected))}, got {found}"
            )
        layer.set_weights(arrays)


def _stored_names(layers: h5py.Group, config: dict) -> dict[str, str]:
    """Returns {layer name: its group}.

    Groups are numbered by class, in the order of the layers; an attribute holds the layer's name
    since Keras 3.6.
    """
    names: dict[str, str] = {}
    numbers: collections.Counter[str] = collections.Counter()
    for layer in config["config"]["layers"]:
        kind = generic_utils.to_snake_case(layer["class_name"])
        names[layer["name"]] = f"{kind}_{numbers[kind]}" if numbers[kind] else kind
        numbers[kind] += 1
    for key, group in layers.items():
        variables = group.get("vars") if isinstance(group, h5py.Group) else None
        if variables is not None and "name" in variables.attrs:
            name = variables.attrs["name"]
            names[name.decode() if isinstance(name, bytes) else str(name)] = key
    return names

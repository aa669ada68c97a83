"""Describes a flat Functional Keras model as a network graph.

A network from a `.tflite` file has the same form, so every edit of a graph works on both.
"""

import json

import numpy as np
import tf_keras as keras

from deeplab_tf.graph.network import IDENTITY, KINDS, LAYER, RESIZE, NetworkGraph, Node

layers = keras.layers

_KIND_OF = {layer: kind for kind, layer in KINDS.items()}
_NOT_ARGUMENTS = ("name", "trainable", "dtype", "batch_input_shape", "activation")
_ENDINGS = ("_initializer", "_regularizer", "_constraint")
_HIDDEN_ACTIVATION = (
    layers.Conv2D,
    layers.DepthwiseConv2D,
    layers.Conv2DTranspose,
    layers.Dense,
)
"""Layers with a fused activation, which becomes a separate node."""


def graph_from_keras(model: keras.Model) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Returns a model as a network graph and its weights.

    A convolution with a fused activation becomes two nodes, "<name>_linear" and "<name>".

    Args:
        model: flat Functional graph with one input; its first output is the network's own.

    Returns:
        The description, and float32 "layer/weight" arrays.

    Raises:
        ValueError: several inputs, a nested model, or a layer that is used twice.
    """
    if len(model.inputs) != 1:
        raise ValueError(f"expected a model with one input, got {len(model.inputs)}")
    nodes: list[Node] = []
    arrays: dict[str, np.ndarray] = {}
    for layer in model.layers:
        if isinstance(layer, layers.InputLayer):
            continue
        _check_flat(layer)
        inputs = layer.input if isinstance(layer.input, list) else [layer.input]
        names = tuple(tensor._keras_history.layer.name for tensor in inputs)
        steps = _nodes(layer, names)
        nodes += steps
        owner = steps[0].name
        for variable, value in zip(layer.weights, layer.get_weights(), strict=True):
            arrays[f"{owner}/{variable.name.split('/')[-1].split(':')[0]}"] = value
    shape = tuple(model.inputs[0].shape[1:])
    output, *further = (tensor._keras_history.layer.name for tensor in model.outputs)
    network = NetworkGraph(
        model.input_names[0],
        shape,
        nodes=tuple(nodes),
        output_name=output,
        further_outputs=tuple(further),
    )
    return network, arrays


def _check_flat(layer: keras.layers.Layer) -> None:
    if isinstance(layer, keras.Model):
        raise ValueError(f"layer {layer.name!r} is a model of its own; give one flat graph")
    if len(layer.inbound_nodes) != 1:
        raise ValueError(
            f"layer {layer.name!r} is used {len(layer.inbound_nodes)} times; expected once"
        )


def _nodes(layer: keras.layers.Layer, inputs: tuple[str, ...]) -> list[Node]:
    config = json.loads(json.dumps(layer.get_config(), default=float))  # plain lists and numbers
    if isinstance(layer, layers.Dropout):
        return [Node(layer.name, IDENTITY, inputs=inputs)]
    if isinstance(layer, layers.Resizing) and not config.get("crop_to_aspect_ratio"):
        settings = {name: config[name] for name in ("height", "width", "interpolation")}
        return [
            Node(
                layer.name, RESIZE, inputs=inputs, attributes=settings | {"alignment": "half_pixel"}
            )
        ]
    if type(layer) is layers.Activation:
        return [_activation(layer.name, config["activation"], inputs=inputs)]
    kind = _KIND_OF.get(type(layer))
    if kind is None:
        attributes = {"class_name": type(layer).__name__, "config": config}
        return [Node(layer.name, LAYER, inputs=inputs, attributes=attributes)]
    attributes = {
        name: value
        for name, value in config.items()
        if name not in _NOT_ARGUMENTS and not name.endswith(_ENDINGS)
    }
    hidden = config.get("activation", "linear")
    if not isinstance(layer, _HIDDEN_ACTIVATION) or hidden == "linear":
        return [Node(layer.name, kind, inputs=inputs, attributes=attributes)]
    linear = Node(f"{layer.name}_linear", kind, inputs=inputs, attributes=attributes)
    return [linear, _activation(layer.name, hidden, inputs=(linear.name,))]


def _activation(name: str, function: str, *, inputs: tuple[str, ...]) -> Node:
    if function in ("relu", "relu6"):
        return Node(
            name,
            "relu",
            inputs=inputs,
            attributes={"max_value": 6.0} if function == "relu6" else {},
        )
    if function == "linear":
        return Node(name, IDENTITY, inputs=inputs)
    if function == "softmax":
        return Node(name, "softmax", inputs=inputs)
    return Node(name, "activation", inputs=inputs, attributes={"activation": function})

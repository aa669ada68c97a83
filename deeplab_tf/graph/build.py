"""Builds a Keras model from a network graph."""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph import layers as graph_layers
from deeplab_tf.graph.network import (
    IDENTITY,
    KINDS,
    LAYER,
    RESIZE,
    NetworkGraph,
    Node,
    stock_layer,
)

layers = keras.layers
LONGEST_CHAIN = 900
"""Keras calls itself for each layer, and Python allows 1000 calls. ResNet-152 has 515 in a row."""


def build_model(
    description: NetworkGraph,
    size: tuple[int, int] | None = None,
    *,
    all_outputs: bool = False,
) -> keras.Model:
    """Builds the network with new weights as one flat Functional graph.

    Args:
        description: the network.
        size: (height, width) of the input; None: the network's own.
        all_outputs: whether the model also gives the further outputs, as a list.

    Returns:
        A model: float32 [batch, *input_shape] -> the network's output as float32 (the integer
        type of the arg max where the network ends in one).

    Raises:
        ValueError: a node's attributes do not fit its kind or its input; the node is named. Or the
            network is too deep.
    """
    _check_depth(description)
    height, width = size or (None, None)
    shape = description.input_shape
    if height is not None or width is not None:
        if len(shape) != 3:
            raise ValueError(
                f"a height and width can be set for an image input only; got {list(shape)}"
            )
        shape = (height or shape[0], width or shape[1], shape[2])
    tensors = {description.input_name: keras.Input(shape, name=description.input_name)}
    for node in description.nodes:
        try:
            tensors[node.name] = _apply(node, tensors, other_size=shape != description.input_shape)
        except Exception as error:  # Keras raises all kinds of errors for unusual values
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"node {node.name!r} ({node.kind}) cannot be built: {reason}") from (
                error
            )
    image, output = tensors[description.input_name], tensors[description.output_name]
    if all_outputs and description.further_outputs:
        output = [tensors[name] for name in description.outputs]
    return keras.Model(image, output, name="imported")


def main_output(model: keras.Model) -> keras.Model:
    """Returns the part of a model that its first output needs; the layers are the same ones.

    Args:
        model: with one or several outputs.
    """
    if len(model.outputs) == 1:
        return model
    return keras.Model(model.inputs, model.outputs[0], name=f"{model.name}_main")


def _check_depth(description: NetworkGraph) -> None:
    """Refuses a chain that Keras' recursive functions could not follow to its end."""
    depth = {description.input_name: 0}
    for node in description.nodes:
        depth[node.name] = 1 + max((depth[name] for name in node.inputs), default=0)
    if (longest := max(depth.values())) > LONGEST_CHAIN:
        raise ValueError(
            f"expected at most {LONGEST_CHAIN} layers one after the other, got {longest}; Keras "
            "builds no deeper network"
        )


def _layer_of(node: Node) -> keras.layers.Layer:
    if node.kind == LAYER:
        layer = stock_layer(node.attributes["class_name"], node.name)
        return layer.from_config(node.attributes["config"] | {"name": node.name})
    return KINDS[node.kind](**node.attributes, name=node.name)


def _apply(node: Node, tensors: dict[str, tf.Tensor], *, other_size: bool) -> tf.Tensor:
    """Applies a node to the symbolic tensors computed so far.

    Args:
        node: the node.
        tensors: {node or input name: its tensor}.
        other_size: whether the input size differs from the description's.
    """
    inputs = [tensors[name] for name in node.inputs]
    value = inputs if len(inputs) > 1 else inputs[0]
    if node.kind == IDENTITY:
        return value
    if node.kind == RESIZE:
        return _resize(node, value, tensors=tensors, other_size=other_size)
    return _layer_of(node)(value)


def _resize(
    node: Node, value: tf.Tensor, *, tensors: dict[str, tf.Tensor], other_size: bool
) -> tf.Tensor:
    """Applies a resize; at another input size it follows the node `like`, or its factor."""
    _, in_height, in_width, _ = value.shape
    settings = node.attributes
    height, width = settings["height"], settings["width"]
    if other_size and settings.get("like"):
        _, height, width, _ = tensors[settings["like"]].shape
    elif other_size:
        factor = _factor(node)
        height, width = round(in_height * factor[0]), round(in_width * factor[1])
    interpolation, alignment = settings["interpolation"], settings["alignment"]
    # All conventions agree for a single pixel, and for nearest with integer factors.
    same = (in_height, in_width) == (1, 1) or (
        interpolation == "nearest"
        and alignment == "legacy"
        and height % in_height == 0
        and width % in_width == 0
    )
    if same or alignment == "half_pixel":
        return layers.Resizing(height, width, interpolation, name=node.name)(value)
    return graph_layers.AlignedResizing(
        height, width, interpolation=interpolation, alignment=alignment, name=node.name
    )(value)


def _factor(node: Node) -> tuple[float, float]:
    factor = node.attributes.get("factor")
    if not factor:
        raise ValueError("its output size is fixed; build the network at the file's input size")
    return tuple(factor)

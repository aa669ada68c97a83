"""A network graph becomes a Keras model."""

import tf_keras as keras

from deeplab_tf.graph import layers as graph_layers
from deeplab_tf.graph.network import (
    IDENTITY,
    KINDS,
    LAYER,
    RESIZE,
    NetworkDescription,
    Node,
    stock_layer,
)

layers = keras.layers


def build_imported(
    description: NetworkDescription, size: tuple[int, int] | None = None
) -> keras.Model:
    """Builds the network with new weights, one flat Functional graph.

    Args:
        description: the network.
        height, width: input size; the file's own where left out.

    Returns:
        float32 [batch, *input_shape] -> what the file's output is, as float32 (an arg max:
        its integer type).

    Raises:
        ValueError: a node whose attributes do not fit its kind or its input, named.
    """
    height, width = size or (None, None)
    shape = description.input_shape
    if height is not None or width is not None:
        if len(shape) != 3:
            raise ValueError(f"height and width need an image input; this one is {list(shape)}")
        shape = (height or shape[0], width or shape[1], shape[2])
    tensors = {description.input_name: keras.Input(shape, name=description.input_name)}
    for node in description.nodes:
        try:
            tensors[node.name] = _apply(node, tensors, other_size=shape != description.input_shape)
        except (TypeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"node {node.name!r} ({node.kind}) cannot be built: {reason}") from (
                error
            )
    image, output = tensors[description.input_name], tensors[description.output_name]
    return keras.Model(image, output, name="imported")


def _layer_of(node: Node) -> keras.layers.Layer:
    if node.kind == LAYER:
        layer = stock_layer(node.attributes["class_name"], node.name)
        return layer.from_config(node.attributes["config"] | {"name": node.name})
    return KINDS[node.kind](**node.attributes, name=node.name)


def _apply(node: Node, tensors: dict, *, other_size: bool):
    inputs = [tensors[name] for name in node.inputs]
    value = inputs if len(inputs) > 1 else inputs[0]
    if node.kind == IDENTITY:
        return value
    if node.kind == RESIZE:
        return _resize(node, value, tensors=tensors, other_size=other_size)
    return _layer_of(node)(value)


def _resize(node: Node, value, *, tensors: dict, other_size: bool):
    _, in_height, in_width, _ = value.shape
    settings = node.attributes
    height, width = settings["height"], settings["width"]
    if other_size and settings.get("like"):
        _, height, width, _ = tensors[settings["like"]].shape
    elif other_size:
        factor = _factor(node)
        height, width = round(in_height * factor[0]), round(in_width * factor[1])
    interpolation, alignment = settings["interpolation"], settings["alignment"]
    # From one pixel every convention gives the same, and so does nearest by whole factors.
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
        raise ValueError("has a fixed size; build the network at the file's own input size")
    return tuple(factor)

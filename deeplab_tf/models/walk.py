"""A description computed node by node, so that a step can look at, and change, every value.

Building a Keras graph for each of many small changes would take longer than computing it.
"""

import collections.abc
import dataclasses

import numpy as np
import tensorflow as tf

from deeplab_tf.models.imported import IDENTITY, RESIZE, NetworkDescription, Node, apply_node


@dataclasses.dataclass(frozen=True)
class Value:
    """What a node computes.

    Attributes:
        node: the node.
        inputs: what it reads, in order.
        linear: what it gives, [batch, ...].
    """

    node: Node
    inputs: list
    linear: tf.Tensor


def walk(
    description: NetworkDescription,
    arrays: dict[str, np.ndarray],
    image,
    visit: collections.abc.Callable[[Value], object] | None = None,
    quantize_input: collections.abc.Callable | None = None,
):
    """Computes a network node by node; values that nothing reads any more are dropped.

    Args:
        description, arrays: the network.
        image: float32 [batch, *input_shape].
        visit: called with each node's value in the order of execution; what it returns takes
            the value's place, None leaves it.
        quantize_input: applied to the image first.

    Returns:
        the output's value.
    """
    last_reader = {name: node.name for node in description.nodes for name in node.inputs}
    first = quantize_input(image) if quantize_input else tf.convert_to_tensor(image)
    values = {description.input_name: first}
    for node in description.nodes:
        inputs = [values[name] for name in node.inputs]
        found = compute(node, inputs, arrays)
        if visit is not None:
            replaced = visit(Value(node, inputs, found))
            found = found if replaced is None else replaced
        values[node.name] = found
        for name in set(node.inputs):
            if last_reader[name] == node.name and name != description.output_name:
                del values[name]
    return values[description.output_name]


def compute(node: Node, inputs: list, arrays: dict[str, np.ndarray]):
    """One node on values at hand, with its weights of `arrays`."""
    if node.kind in (IDENTITY, RESIZE):
        return apply_node(node, inputs)
    return apply_node(node, inputs, _weights_of(node, arrays))


def _weights_of(node: Node, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{node.name}/"
    return {
        key.removeprefix(prefix): value
        for key, value in arrays.items()
        if key.startswith(prefix) and "/" not in key.removeprefix(prefix)
    }

"""Edits of a network graph and its weights: cutting, appending and inserting nodes."""

import dataclasses
from typing import Any

import numpy as np

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import CLASSIFIER, CONVOLUTIONS, RESIZE, NetworkGraph, Node


def cut_after(
    description: NetworkGraph, arrays: dict[str, np.ndarray], *, name: str
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Cuts the network after a node, which becomes its only output.

    Args:
        description: the network.
        arrays: its weights.
        name: the node whose value becomes the output.

    Returns:
        The shorter network, and the arrays that it still needs.

    Raises:
        ValueError: no such node.
    """
    alone = dataclasses.replace(description, further_outputs=(), named_outputs=())
    return cut_output(alone, arrays, name=name)


def cut_output(
    description: NetworkGraph, arrays: dict[str, np.ndarray], *, name: str
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Cuts the output back to a node before it; the further outputs stay.

    Args:
        description: the network.
        arrays: its weights.
        name: the node whose value becomes the output. A further output with that value is dropped.

    Returns:
        The shorter network, and the arrays that it still needs.

    Raises:
        ValueError: no such node.
    """
    by_name = {node.name: node for node in description.nodes}
    if name not in by_name:
        raise ValueError(f"no node is named {name!r}; the last are {', '.join(list(by_name)[-8:])}")
    old, further = description.output_name, [n for n in description.further_outputs if n != name]
    needed, waiting = set(), [name, *further]
    while waiting:
        current = waiting.pop()
        if current in needed or current not in by_name:
            continue
        needed.add(current)
        waiting += by_name[current].inputs
    nodes = [node for node in description.nodes if node.name in needed]
    kept = tuple(_without_lost_like(node, {*needed, description.input_name}) for node in nodes)
    named = [pair for pair in description.named_outputs if pair[0] in (old, *further)]
    shorter = dataclasses.replace(
        description,
        nodes=kept,
        output_name=name,
        further_outputs=tuple(further),
        named_outputs=tuple((name if node == old else node, text) for node, text in named)
        if further
        else (),
    )
    return shorter, {k: v for k, v in arrays.items() if k.rpartition("/")[0] in needed}


def _without_lost_like(node: Node, kept: set[str]) -> Node:
    like = node.attributes.get("like")
    if node.kind != RESIZE or like is None or like in kept:
        return node
    return dataclasses.replace(node, attributes=node.attributes | {"like": None})


def last_convolution(description: NetworkGraph) -> Node:
    """Returns the classifier: the last convolution or dense layer that the output depends on.

    Args:
        description: the network.

    Raises:
        ValueError: there is none.
    """
    reached, _ = cut_after(description, {}, name=description.output_name)
    for node in reversed(reached.nodes):
        if node.kind in (*CONVOLUTIONS, "dense"):
            return node
    raise ValueError("the network has no convolution and no dense layer")


def append_classifier(
    description: NetworkGraph,
    arrays: dict[str, np.ndarray],
    *,
    num_classes: int,
    seed: int = 0,
) -> tuple[NetworkGraph, dict[str, np.ndarray]]:
    """Appends a classifier: a 1x1 convolution after features, a dense layer after a vector.

    Its kernel is drawn from a normal distribution with standard deviation 0.01, its bias is 0.

    Args:
        description: the network.
        arrays: its weights.
        num_classes: output channels of the classifier.
        seed: seed of the random kernel.

    Returns:
        The longer network, and its arrays.

    Raises:
        ValueError: `num_classes` is below 1, or the output is neither [batch, height, width,
            channels] nor [batch, channels].
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    shape = build_model(description).output_shape
    if len(shape) not in (2, 4):
        raise ValueError(f"a classifier expects image features or a vector, got shape {shape}")
    taken = {node.name for node in description.nodes} | {description.input_name}
    name = CLASSIFIER if CLASSIFIER not in taken else f"{CLASSIFIER}_new"
    kernel_shape: tuple[int, ...]
    attributes: dict[str, Any]
    if len(shape) == 4:
        kind, attributes = "conv2d", {"filters": num_classes, "kernel_size": 1}
        kernel_shape = (1, 1, shape[-1], num_classes)
    else:
        kind, attributes = "dense", {"units": num_classes}
        kernel_shape = (shape[-1], num_classes)
    node = Node(name, kind, inputs=(description.output_name,), attributes=attributes)
    kernel = np.random.default_rng(seed).normal(0, 0.01, kernel_shape).astype(np.float32)
    outputs = description.renamed_outputs({description.output_name: name})
    longer = dataclasses.replace(description, nodes=(*description.nodes, node), **outputs)
    return longer, arrays | {
        f"{name}/kernel": kernel,
        f"{name}/bias": np.zeros(num_classes, np.float32),
    }


def insert_after(description: NetworkGraph, additions: dict[str, Node]) -> NetworkGraph:
    """Inserts a node after each named one; the readers of the old node then read the new one.

    Args:
        description: the network.
        additions: {name of a node or of the input: the node to insert, which reads it}.

    Returns:
        The network with the new nodes.
    """
    renamed = {name: node.name for name, node in additions.items()}
    nodes = [additions[description.input_name]] if description.input_name in additions else []
    for node in description.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        nodes.append(dataclasses.replace(node, inputs=inputs))
        if node.name in additions:
            nodes.append(additions[node.name])
    return dataclasses.replace(
        description, nodes=tuple(nodes), **description.renamed_outputs(renamed)
    )

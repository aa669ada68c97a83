"""Separates the head of an imported network: the nodes between its logits and its output."""

import numpy as np

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import cut_output
from deeplab_tf.graph.network import IDENTITY, RESIZE, NetworkGraph, Node

_AFTER_LOGITS = ("argmax", "cast", "softmax", "reshape", IDENTITY)


def split_head(
    description: NetworkGraph, arrays: dict[str, np.ndarray]
) -> tuple[NetworkGraph, dict[str, np.ndarray], Alignment, tuple[str, ...]]:
    """Removes arg max, softmax and the last bilinear resize; training and export add their own.

    Args:
        description: an image network whose output is a class map, scores or logits.
        arrays: its weights.

    Returns:
        The network up to its logits [h, w, classes] and its further outputs, the arrays that it
        still needs, the
        convention of the removed resize (half-pixel where there was none), and the names of the
        removed nodes.

    Raises:
        ValueError: the network has no image input, or does not end in logits of an image.
    """
    if len(description.input_shape) != 3:
        raise ValueError(f"its input {list(description.input_shape)} is not an image")
    by_name = {node.name: node for node in description.nodes}
    node, dropped, alignment = by_name[description.output_name], [], Alignment.HALF_PIXEL
    while node.kind in _AFTER_LOGITS and node.inputs[0] in by_name:
        dropped.append(node.name)
        node = by_name[node.inputs[0]]
    if _resizes_to_input(node, description) and node.inputs[0] in by_name:
        dropped.append(node.name)
        alignment = Alignment(node.attributes["alignment"])
        node = by_name[node.inputs[0]]
        while node.kind == IDENTITY and node.inputs[0] in by_name:
            node = by_name[node.inputs[0]]
    shorter, kept = cut_output(description, arrays, name=node.name)
    shape = build_model(shorter).output_shape[1:]
    if len(shape) != 3 or tuple(shape[:2]) == (1, 1):
        raise ValueError(f"it ends in {list(shape)}, not in logits [h, w, classes] of an image")
    return shorter, kept, alignment, tuple(reversed(dropped))


def _resizes_to_input(node: Node, description: NetworkGraph) -> bool:
    settings = node.attributes
    return (
        node.kind == RESIZE
        and settings["interpolation"] == "bilinear"
        and (settings["height"], settings["width"]) == tuple(description.input_shape[:2])
    )

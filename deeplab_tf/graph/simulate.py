"""Simulates an integer file on a float graph: every tensor with a range is rounded to its steps."""

import dataclasses

from deeplab_tf.graph.edit import insert_after
from deeplab_tf.graph.network import CONVOLUTIONS, HIDDEN_LINEAR, NetworkGraph, Node

_SUMS = (
    *CONVOLUTIONS,
    "dense",
    "multiply",
    "global_average_pool2d",
    "average_pool2d",
    "reduce_mean",
)


def simulate_quantization(description: NetworkGraph, ranges: dict[str, dict]) -> NetworkGraph:
    """Rounds every tensor that has a range to its integer steps, as the integer file does.

    Layers that sum compute in float64, so that the integer sums can be recovered.

    Args:
        description: the float network.
        ranges: by node name, {scale, zero_point, quantized_min, quantized_max} and, where
            known, accumulator: {accumulator_scale, multiplier} of a sum of products,
            addends: {input_scales, multipliers} of an add or subtract, table: the kernel's
            output for each 8-bit value, or softmax: {input_scale, scale}.

    Returns:
        The network that simulates the integer file.
    """
    keys = ("scale", "zero_point", "quantized_min", "quantized_max")
    names = {description.input_name} | {node.name for node in description.nodes}
    nodes = tuple(_exact(node, ranges) for node in description.nodes)
    return insert_after(
        dataclasses.replace(description, nodes=nodes),
        {
            name: Node(
                f"{name}_simulated",
                "simulated_quantization",
                inputs=(name,),
                attributes={key: values[key] for key in keys} | values.get("accumulator", {}),
            )
            for name, values in ranges.items()
            if name in names
        },
    )


def _exact(node: Node, ranges: dict[str, dict]) -> Node:
    """Returns the node with the arithmetic of its integer kernel."""
    if node.kind in _SUMS:
        return dataclasses.replace(node, attributes=node.attributes | {"dtype": "float64"})
    if table := ranges.get(node.name, {}).get("table"):
        return dataclasses.replace(node, kind="simulated_table", attributes=table)
    if node.kind == "softmax" and (settings := ranges.get(node.name, {}).get("softmax")):
        return dataclasses.replace(node, kind="simulated_softmax", attributes=settings)
    values = ranges.get(node.name) or ranges.get(node.name.removesuffix(HIDDEN_LINEAR), {})
    if node.kind in ("add", "subtract") and "addends" in values:
        attributes = values["addends"] | {"scale": values["scale"]}
        return dataclasses.replace(node, kind="simulated_add", attributes=attributes)
    return node

"""Counts the multiply-adds of a graph per operator, from its shapes alone.

    CONV_2D             output values * kernel height * kernel width * input channels
    DEPTHWISE_CONV_2D   output values * kernel height * kernel width
    FULLY_CONNECTED     output values * input features
    TRANSPOSE_CONV      input values  * kernel height * kernel width * output channels
    BATCH_MATMUL        output values * length of the contracted axis

Padded pixels are counted too. Additions, resizes and table look-ups count as zero.
"""

import math

from tflite_tools.flatbuffer.graph import Graph, Operator


def operator_multiply_adds(graph: Graph, operator: Operator) -> int:
    """Counts the multiply-adds of one operator for the stored shapes; 0 for kinds without.

    Args:
        graph: the graph.
        operator: one of its operators.
    """
    shape = [graph.tensors[index].shape if index >= 0 else () for index in operator.inputs]
    output = math.prod(graph.tensors[operator.outputs[0]].shape)
    if operator.kind == "CONV_2D":  # weights [out, height, width, in / groups]
        return output * math.prod(shape[1][1:])
    if operator.kind == "DEPTHWISE_CONV_2D":  # weights [1, height, width, out]
        return output * shape[1][1] * shape[1][2]
    if operator.kind == "FULLY_CONNECTED":  # weights [out, in]
        return output * shape[1][-1]
    if operator.kind == "TRANSPOSE_CONV":  # output shape, weights [out, height, width, in], input
        return math.prod(shape[2]) * shape[1][0] * shape[1][1] * shape[1][2]
    if operator.kind == "BATCH_MATMUL":
        adjoint = bool(getattr(operator.options, "adjX", False))
        return output * shape[0][-2 if adjoint else -1]
    return 0


def multiply_adds(graph: Graph) -> tuple[int, ...]:
    """Counts the multiply-adds of each operator, in the order of the file."""
    return tuple(operator_multiply_adds(graph, operator) for operator in graph.operators)


def is_integer(graph: Graph) -> bool:
    """Returns whether most multiply-adds use integer weights, which selects the peak throughput."""
    count = multiply_adds(graph)
    integer = sum(
        count[operator.position]
        for operator in graph.operators
        if count[operator.position] and not graph.tensors[operator.inputs[1]].is_float
    )
    return 2 * integer > sum(count)

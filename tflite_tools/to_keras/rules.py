"""The table of operators: a rule each, and which of its inputs are data."""

import dataclasses
from collections.abc import Callable

from tflite_tools.to_keras import convolutions, elementwise, shapes, spatial
from tflite_tools.to_keras.view import OperatorView, Step, is_constant

FIRST = (0,)
ALL = None
"""Every input that is not constant."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """How an operator becomes layers.

    Attributes:
        convert: view -> steps, none where the value passes unchanged. Raises ValueError with
            "it ..." or "its ..." for what cannot be expressed.
        data: input slots that carry the image on; ALL for every computed one.
    """

    convert: Callable[[OperatorView], list[Step]]
    data: tuple[int, ...] | None = FIRST

    def data_inputs(self, graph, operator) -> list[int]:
        """Tensor indices of the inputs that carry the image on."""
        if self.data is ALL:
            return [i for i in operator.inputs if i >= 0 and not is_constant(graph, i)]
        return [operator.inputs[slot] for slot in self.data]


RULES = {
    "CONV_2D": Rule(convolutions.conv2d),
    "DEPTHWISE_CONV_2D": Rule(convolutions.depthwise_conv2d),
    "TRANSPOSE_CONV": Rule(convolutions.transpose_conv, (2,)),
    "FULLY_CONNECTED": Rule(convolutions.fully_connected),
    "SPACE_TO_BATCH_ND": Rule(convolutions.space_to_batch),
    "BATCH_TO_SPACE_ND": Rule(convolutions.batch_to_space),
    "ADD": Rule(elementwise.add, ALL),
    "SUB": Rule(elementwise.subtract, ALL),
    "MUL": Rule(elementwise.multiply, ALL),
    "NEG": Rule(elementwise.negative),
    "MAXIMUM": Rule(elementwise.maximum, ALL),
    "MINIMUM": Rule(elementwise.minimum, ALL),
    "RELU": Rule(elementwise.activation),
    "RELU6": Rule(elementwise.activation),
    "RELU_N1_TO_1": Rule(elementwise.activation),
    "RELU_0_TO_1": Rule(elementwise.activation),
    "ELU": Rule(elementwise.activation),
    "TANH": Rule(elementwise.activation),
    "LOGISTIC": Rule(elementwise.activation),
    "HARD_SWISH": Rule(elementwise.activation),
    "LEAKY_RELU": Rule(elementwise.leaky_relu),
    "PRELU": Rule(elementwise.prelu),
    "SOFTMAX": Rule(elementwise.softmax),
    "QUANTIZE": Rule(elementwise.quantize),
    "DEQUANTIZE": Rule(elementwise.dequantize),
    "CAST": Rule(elementwise.cast),
    "AVERAGE_POOL_2D": Rule(spatial.average_pool2d),
    "MAX_POOL_2D": Rule(spatial.max_pool2d),
    "MEAN": Rule(spatial.mean),
    "RESIZE_BILINEAR": Rule(spatial.resize_bilinear),
    "RESIZE_NEAREST_NEIGHBOR": Rule(spatial.resize_nearest),
    "TILE": Rule(spatial.tile),
    "PAD": Rule(spatial.pad),
    "PADV2": Rule(spatial.pad),
    "STRIDED_SLICE": Rule(spatial.strided_slice),
    "RESHAPE": Rule(shapes.reshape),
    "SQUEEZE": Rule(shapes.reshape),
    "EXPAND_DIMS": Rule(shapes.reshape),
    "CONCATENATION": Rule(shapes.concatenation, ALL),
    "ARG_MAX": Rule(shapes.arg_max),
}

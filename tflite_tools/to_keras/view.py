"""The input and output of an import rule: a view of one operator, and the layers for it."""

import dataclasses
from collections.abc import Mapping, Set
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor
from tflite_tools.to_keras.convolution_weights import UNPACKS, operand

INTEGER_RANGES = {"UINT8": (0, 255), "INT8": (-128, 127), "INT16": (-32768, 32767)}
"""Smallest and largest value of each type that activations are quantized to."""

_MOST_UNPACKS = 8
"""Converters write one or two in a row, for sparse float16 weights."""
_FUSED_NAMES = {
    value: name
    for name, value in vars(schema.ActivationFunctionType).items()
    if not name.startswith("_")
}


class ShapeMismatchError(ValueError):
    """The stored shapes contradict each other: the file is damaged or its shapes are outdated."""


@dataclasses.dataclass(frozen=True)
class Step:
    """One layer of an imported operator.

    Attributes:
        kind: key of `deeplab_tf.graph.network.KINDS`.
        attributes: arguments of the layer.
        weights: its arrays by short name ("kernel").
        suffix: suffix of the layer's name; the last step of an operator takes the tensor's name.
        note: text after the kind in the report.
    """

    kind: str
    attributes: dict = dataclasses.field(default_factory=dict)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    suffix: str = ""
    note: str = ""


def is_constant(graph: Graph, index: int) -> bool:
    """Returns whether a tensor is stored, directly or as float16 or sparse.

    Args:
        graph: the file.
        index: tensor index.
    """
    for _ in range(_MOST_UNPACKS):
        if graph.tensors[index].data is not None:
            return True
        producer = graph.producer(index)
        if producer is None or producer.kind not in UNPACKS:
            return False
        index = producer.inputs[0]
    return False


@dataclasses.dataclass(frozen=True)
class OperatorView:
    """One operator in its graph.

    Attributes:
        graph: the file.
        operator: the operator.
        sizes: {(height, width): the latest image-like tensor of that size}.
        slot: which of the operator's outputs is imported.
        batchless: tensors whose batch of 1 a RESHAPE has dropped; the network keeps it.
    """

    graph: Graph
    operator: Operator
    sizes: Mapping[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    slot: int = 0
    batchless: Set[int] = frozenset()

    @property
    def options(self) -> Any:
        """The options object of the schema.

        Raises:
            ValueError: the file has none for this operator.
        """
        if self.operator.options is None:
            raise ValueError("its options are missing")
        return self.operator.options

    def input(self, slot: int) -> Tensor:
        """Returns the tensor of an input slot."""
        return self.graph.tensors[self.operator.inputs[slot]]

    @property
    def output(self) -> Tensor:
        """The tensor that is imported."""
        return self.graph.tensors[self.operator.outputs[self.slot]]

    def has_input(self, slot: int) -> bool:
        """Returns whether the operator has an input in a slot."""
        return slot < len(self.operator.inputs) and self.operator.inputs[slot] >= 0

    def is_constant(self, slot: int) -> bool:
        """Returns whether the input of a slot is stored in the file."""
        return self.has_input(slot) and is_constant(self.graph, self.operator.inputs[slot])

    def floats(self, slot: int) -> np.ndarray:
        """Returns a constant input as float32.

        Args:
            slot: input slot.

        Raises:
            ValueError: it is computed, or holds NaN or infinity.
        """
        if not self.is_constant(slot):
            raise ValueError(f"its input {slot} must be constant, but it is computed")
        values = operand(self.graph, self.operator, slot=slot)
        if not np.isfinite(values).all():
            raise ValueError(f"its constant {self.input(slot).name!r} holds NaN or infinity")
        return values

    def integers(self, slot: int) -> list[int]:
        """Returns a constant integer input as a flat list.

        Args:
            slot: input slot.

        Raises:
            ValueError: it is computed.
        """
        data = self.input(slot).data
        if data is None:
            raise ValueError(f"its input {slot} must be constant, but it is computed")
        return [int(value) for value in data.ravel()]

    def fused_activation(self) -> list[Step]:
        """Returns the layer of the activation that is fused into the operator, if there is one."""
        code = self.options.fusedActivationFunction
        return activation_steps(_FUSED_NAMES.get(code, f"activation {code}"))

    def activation(self) -> list[Step]:
        """Returns the fused activation, or the one that the range of an integer output implies.

        Early converters dropped a ReLU or ReLU6 where the output's range starts at 0 and so clips
        the same values; the float network needs the activation.
        """
        return self.fused_activation() or self.range_activation()

    def range_activation(self) -> list[Step]:
        """Returns the activation that the range of an integer output implies, if it starts at 0."""
        quantization = self.output.quantization
        if self.output.type_name not in INTEGER_RANGES or quantization is None:
            return []
        low, high = INTEGER_RANGES[self.output.type_name]
        if self.output.type_name == "INT16" or quantization.zero_point[0] != low:
            return []
        largest = float(quantization.scale[0]) * (high - low)
        relu6 = abs(largest - 6.0) <= float(quantization.scale[0])
        (step,) = activation_steps("RELU6" if relu6 else "RELU")
        return [dataclasses.replace(step, note="stands in the output's range")]

    def cut_by_range(self, slots: tuple[int, ...] = (0,)) -> list[Step]:
        """Returns the activation of an output range that excludes negative values of an input.

        Args:
            slots: inputs whose ranges are compared with that of the output.
        """
        positive = all(self.never_negative(slot) for slot in slots)
        known = all(self.input(slot).quantization is not None for slot in slots)
        return self.range_activation() if known and not positive else []

    def never_negative(self, slot: int) -> bool:
        """Returns whether an input's quantization has no negative value.

        Args:
            slot: input slot.
        """
        tensor = self.input(slot)
        if tensor.quantization is None:
            return False
        zero_point = int(tensor.quantization.zero_point[0])
        return (tensor.type_name, zero_point) in (("UINT8", 0), ("INT8", -128))


_ACTIVATION_STEPS = {
    "NONE": [],
    "RELU": [Step("relu")],
    "RELU6": [Step("relu", {"max_value": 6.0})],
    "RELU_0_TO_1": [Step("relu", {"max_value": 1.0})],
    "RELU_N1_TO_1": [Step("clip", {"minimum": -1.0, "maximum": 1.0})],
    "TANH": [Step("activation", {"activation": "tanh"})],
    "LOGISTIC": [Step("activation", {"activation": "sigmoid"})],
    "ELU": [Step("activation", {"activation": "elu"})],
    "HARD_SWISH": [Step("hard_swish")],
}


def activation_steps(name: str) -> list[Step]:
    """Returns the layer of an activation.

    Args:
        name: name in the schema.

    Raises:
        ValueError: the activation is not supported.
    """
    if name not in _ACTIVATION_STEPS:
        raise ValueError(f"its activation {name} is not supported")
    return list(_ACTIVATION_STEPS[name])

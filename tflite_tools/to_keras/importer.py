"""Imports the graph of a file as a network description, float weights and activation ranges."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import KINDS, NetworkGraph, Node
from tflite_tools.flatbuffer.foreign_parts import has_foreign_types, why_foreign
from tflite_tools.flatbuffer.graph import Graph, Operator, Tensor, read_checked_graph
from tflite_tools.flatbuffer.operators import traits
from tflite_tools.input_contract import (
    FileDescription,
    InputContract,
    input_contract,
    read_input_contract,
)
from tflite_tools.runtime.fixed_inputs import inputs_advice
from tflite_tools.runtime.fixed_size import has_any_size, size_advice
from tflite_tools.runtime.runtime_shapes import (
    with_constant_values,
    with_known_shapes,
    with_runtime_shapes,
)
from tflite_tools.to_keras import (  # noqa: F401 - register their rules
    convolutions,
    linear,
    mediapipe,
    spatial,
)
from tflite_tools.to_keras import shapes as _shapes  # noqa: F401 - registers its rules
from tflite_tools.to_keras.elementwise import PER_CHANNEL
from tflite_tools.to_keras.integer_arithmetic import (
    activation_range,
    copies_other_scale,
    integer_arithmetic,
)
from tflite_tools.to_keras.rules import data_inputs, rule_of
from tflite_tools.to_keras.view import OperatorView, ShapeMismatchError, Step

_NAME_PREFIXES = ("PartitionedCall/", "StatefulPartitionedCall/")


@dataclasses.dataclass(frozen=True)
class ReportRow:
    """The result of importing one operator.

    Attributes:
        position: place in the file's order of execution.
        operator: kind in the schema.
        tensor: name of the tensor that it computes.
        became: the layers, or why there are none.
        index: of that tensor in the file.
    """

    position: int
    operator: str
    tensor: str
    became: str
    index: int


@dataclasses.dataclass(frozen=True)
class ImportedNetwork:
    """An imported file.

    Attributes:
        description: the layers.
        arrays: float32 weights, "layer/weight".
        ranges: {layer or input name: {scale, zero_point, quantized_min, quantized_max, min,
            max, dtype}} of every quantized activation; `min` and `max` are real values.
        contract: preprocessing of the file's input; from the graph alone if no file was read.
        rows: one per operator.
        nodes_of_tensors: {tensor name: node name}.
        output_tensors: the file's tensors of `description.outputs`.
    """

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    ranges: dict[str, dict]
    contract: InputContract
    rows: tuple[ReportRow, ...]
    nodes_of_tensors: dict[str, str]
    output_tensors: tuple[int, ...] = ()

    @property
    def is_quantized(self) -> bool:
        """Whether activations are integers."""
        return bool(self.ranges)


def import_file(
    path: str | pathlib.Path,
    trim_head: str = "",
    *,
    output: str = "",
    given: Preprocessing | None = None,
) -> ImportedNetwork:
    """Reads a file with its manifest or metadata, and imports its graph.

    Args:
        path: the `.tflite`.
        trim_head: tensor to cut after; empty for the whole network.
        output: which of several outputs is the network's own; empty for the first.
        given: normalization of the input; None: the file's own.

    Raises:
        FileNotFoundError: no such file.
        ValueError: see `import_graph`.
    """
    graph = read_checked_graph(path)
    network = import_graph(graph, trim_head, output=output)
    contract = read_input_contract(path, graph, given=given)
    return dataclasses.replace(network, contract=contract)


def import_graph(graph: Graph, trim_head: str = "", *, output: str = "") -> ImportedNetwork:
    """Converts a graph to a network, up to its outputs or to a named tensor.

    Operators that these tensors do not depend on are ignored. Shapes that are missing or
    wrong in the file are taken from the runtime, see `with_runtime_shapes`.

    Args:
        graph: the file.
        trim_head: tensor to cut after; empty for the whole network, with all its outputs.
        output: which of several outputs is the network's own; empty for the first.

    Raises:
        ValueError: an operator is not supported or damaged, there are several inputs, no tensor
            or output has that name, or the file is compiled for Edge TPU.
    """
    _check_edge_tpu(graph)
    graph = with_constant_values(with_known_shapes(graph))
    try:
        return _import(graph, trim_head, output=output)
    except ShapeMismatchError as mismatch:
        try:
            running = with_runtime_shapes(graph)
        except ValueError:
            raise mismatch from None
        if [t.shape for t in running.tensors] == [t.shape for t in graph.tensors]:
            raise
        return _import(running, trim_head, output=output)


def _import(graph: Graph, trim_head: str, *, output: str) -> ImportedNetwork:
    outputs = (find_tensor(graph, trim_head),) if trim_head else _outputs(graph, output)
    operators = _needed_operators(graph, outputs)
    builder = _Builder(graph, operators, outputs=outputs)
    for operator in operators:
        builder.convert(operator)
    network = builder.finish()
    _check_shapes(graph, network.description, shapes=builder.shapes)
    return network


def find_tensor(graph: Graph, name: str) -> int:
    """Returns the index of the computed tensor of a name.

    Args:
        graph: the file.
        name: the tensor's name, one of its names joined by ";", or its layer name.

    Raises:
        ValueError: no tensor or several tensors have that name.
    """
    computed = [graph.tensors[index] for operator in graph.operators for index in operator.outputs]
    for matches in (
        [tensor for tensor in computed if tensor.name == name],
        [tensor for tensor in computed if name in (*tensor.name.split(";"), layer_name(tensor))],
    ):
        if len(matches) == 1:
            return matches[0].index
        if matches:
            break
    if matches:
        found = ", ".join(repr(tensor.name) for tensor in matches)
        raise ValueError(f"{graph.path}: {name!r} matches several tensors: {found}; give one")
    last = ", ".join(repr(tensor.name) for tensor in computed[-8:])
    raise ValueError(f"{graph.path}: no operator computes a tensor {name!r}; the last are {last}")


def layer_name(tensor: Tensor) -> str:
    """Returns a tensor's name as a layer name: the first joined name, with word characters only.

    Args:
        tensor: the tensor.
    """
    name = tensor.name.split(";")[0]
    for prefix in _NAME_PREFIXES:
        name = name.removeprefix(prefix)
    name = re.sub(r"[^A-Za-z0-9.]+", "_", name.split(":")[0]).strip("_.")
    return name or f"tensor_{tensor.index}"


def _check_edge_tpu(graph: Graph) -> None:
    for operator in graph.operators:
        if operator.kind == "CUSTOM:edgetpu-custom-op":
            raise ValueError(
                f"{graph.path} is compiled for Edge TPU (operator {operator.position}): its "
                "weights cannot be read; give the file that was compiled"
            )


def _outputs(graph: Graph, name: str) -> tuple[int, ...]:
    """Returns the outputs of a file, each once, the named one first."""
    outputs = tuple(dict.fromkeys(graph.outputs))
    if not name:
        return outputs
    chosen = find_tensor(graph, name)
    if chosen not in outputs:
        names = ", ".join(repr(graph.tensors[index].name) for index in outputs)
        raise ValueError(f"{graph.path}: {name!r} is none of its outputs: {names}")
    return (chosen, *(index for index in outputs if index != chosen))


def _needed_operators(graph: Graph, outputs: Sequence[int]) -> list[Operator]:
    """Returns the operators that the outputs depend on, in the order of execution."""
    producers = {index: op for op in graph.operators for index in op.outputs}
    needed: dict[int, Operator] = {}
    waiting, seen, unknown = list(outputs), set(), []
    while waiting:
        index = waiting.pop()
        if index in seen or index not in producers:
            continue
        seen.add(index)
        operator = producers[index]
        needed[operator.position] = operator
        if rule_of(operator.kind) is None or has_foreign_types(_types(graph, operator)):
            unknown.append(operator)
        try:
            waiting += data_inputs(graph, operator)
        except IndexError as error:
            raise ValueError(_problem(graph, operator, reason="its inputs are missing")) from error
    if unknown:
        raise ValueError(_unknown(graph, min(unknown, key=lambda operator: operator.position)))
    return [needed[position] for position in sorted(needed)]


def _unknown(graph: Graph, operator: Operator) -> str:
    """Returns what is not supported, and the longest part in front of it that is."""
    why = why_foreign(operator.kind, _types(graph, operator))
    text = _problem(graph, operator, reason=f"not supported{why and ': '}{why}")
    before = [
        index
        for index in operator.inputs
        if index >= 0 and graph.producer(index) and not has_foreign_types([_type(graph, index)])
    ]
    if not before:
        return text
    name = graph.tensors[before[0]].name
    return f"{text}; the network up to {name!r} can be imported: --trim_head={name!r}"


def _type(graph: Graph, index: int) -> str:
    return graph.tensors[index].type_name


def _types(graph: Graph, operator: Operator) -> set[str]:
    return {_type(graph, i) for i in (*operator.inputs, *operator.outputs) if i >= 0}


def _problem(graph: Graph, operator: Operator, *, reason: str) -> str:
    """Returns a message with an operator, its position and its neighbors."""
    tensor = graph.tensors[operator.outputs[0]]
    producers = (graph.producer(index) for index in operator.inputs if index >= 0)
    before = sorted({producer.kind for producer in producers if producer is not None})
    consumers = (graph.consumers(index) for index in operator.outputs)
    after = sorted({consumer.kind for group in consumers for consumer in group})
    return (
        f"{graph.path.name}: operator {operator.position}, {operator.kind} "
        f"({tensor.name.split(';')[0][-40:]!r}, after {', '.join(before) or 'the input'}, "
        f"before {', '.join(after) or 'the output'}): {reason}"
    )


class _Builder:
    """Collects the nodes of a network, one operator after the other.

    Attributes:
        shapes: {node or input: its shape in the file, without the batch}.
    """

    def __init__(
        self, graph: Graph, operators: list[Operator], *, outputs: tuple[int, ...]
    ) -> None:
        self._graph, self._outputs = graph, outputs
        self._final = {*outputs, *graph.outputs}
        self._read = {index for operator in operators for index in operator.inputs}
        self._input = self._find_input(operators)
        self._nodes: list[Node] = []
        self._positions: dict[str, int] = {}  # of each node in that list
        self._arrays: dict[str, np.ndarray] = {}
        self._ranges: dict[str, dict] = {}
        self._rows: list[ReportRow] = []
        self._sizes: dict[tuple[int, int], str] = {}
        self._in_batches: set[int] = set()  # tensors between SPACE_ and BATCH_TO_SPACE_ND
        self._batchless: set[int] = set()  # tensors between RESHAPEs that drop and restore a 1
        self.shapes: dict[str, tuple[int, ...]] = {}
        name = layer_name(self._input)
        self._taken = {name.lower()}
        self._numbers: dict[str, int] = {}  # last number that was added to a name
        self._names = {self._input.index: name}
        self._remember(self._input, name)

    def _find_input(self, operators: list[Operator]) -> Tensor:
        graph = self._graph
        used = {
            index
            for operator in operators
            for index in data_inputs(graph, operator)
            if index in graph.inputs
        }
        if len(used) != 1:
            names = ", ".join(repr(graph.tensors[index].name) for index in sorted(used)) or "none"
            raise ValueError(
                f"{graph.path}: {len(used)} inputs are used ({names}); expected one"
                + (f"; {inputs_advice(graph)}" if used else "")
            )
        tensor = graph.tensors[used.pop()]
        if has_any_size(tensor):
            raise ValueError(f"{graph.path}: {size_advice(graph.path)}")
        if any(size < 1 for size in tensor.shape_signature[1:]) or len(tensor.shape) < 2:
            raise ValueError(
                f"{graph.path}: input {tensor.name!r} has shape {list(tensor.shape_signature)}; "
                "convert the model with a fixed height and width"
            )
        return tensor

    def convert(self, operator: Operator) -> None:
        """Adds the nodes of one operator.

        Args:
            operator: the next operator.

        Raises:
            ValueError: the operator cannot be expressed, or the file is damaged.
        """
        if len(operator.outputs) > 1 and not traits(operator.kind).several_outputs:
            reason = f"it has {len(operator.outputs)} outputs, its layer has one"
            raise ValueError(_problem(self._graph, operator, reason=reason))
        for slot, index in enumerate(operator.outputs):
            if index in self._final or index in self._read:
                if self._loses_batch(operator):
                    self._batchless.add(index)
                view = OperatorView(
                    self._graph,
                    operator,
                    self._sizes,
                    slot=slot,
                    batchless=self._batchless,
                )
                self._convert_output(view)

    def _loses_batch(self, operator: Operator) -> bool:
        try:
            return _loses_batch(self._graph, operator, self._batchless)
        except _OF_DAMAGE as error:
            raise ValueError(_damaged(self._graph, operator, error)) from error

    def _convert_output(self, view: OperatorView) -> None:
        operator = view.operator
        inputs = self._inputs_of(operator)
        steps = self._steps(view)
        first_range = self._is_first_range(operator, inputs[0])
        if first_range:
            steps = []
        became = _became(steps, operator)
        if copies_other_scale(view):
            became += "; its scales differ and the built-in kernels copy the integers"
        if self._folds(operator, inputs[0], steps=steps):
            self._fold(inputs[0], steps[0])
            became = f"part of the convolution {inputs[0]}"
            steps = steps[1:]
        name = self._add(view.output, inputs, steps=steps) if steps else inputs[0]
        self._names[view.output.index] = name
        if _stays_in_batches(operator, self._in_batches):
            self._in_batches.add(view.output.index)
        self._remember(view.output, name)
        if name in self._ranges and (steps or first_range):
            self._ranges[name] |= integer_arithmetic(view)
        self._rows.append(
            ReportRow(
                operator.position,
                operator.kind,
                tensor=view.output.name,
                became=became,
                index=view.output.index,
            )
        )

    def _steps(self, view: OperatorView) -> list[Step]:
        operator = view.operator
        convert = rule_of(operator.kind)
        assert convert is not None, operator.kind  # checked by _needed_operators
        try:
            return convert(view)
        except ValueError as error:
            kind = ShapeMismatchError if isinstance(error, ShapeMismatchError) else ValueError
            raise kind(_problem(self._graph, operator, reason=str(error))) from error
        except _OF_DAMAGE as error:
            raise ValueError(_damaged(self._graph, operator, error)) from error

    def _folds(self, operator: Operator, source: str, *, steps: list[Step]) -> bool:
        """Whether a constant per channel can be folded into the convolution before it."""
        if not steps or steps[0].note != PER_CHANNEL or source in self._ranges:
            return False
        (tensor,) = data_inputs(self._graph, operator)
        if source not in self._positions:
            return False
        return (
            self._nodes[self._positions[source]].kind in ("conv2d", "depthwise_conv2d")
            and len(self._graph.consumers(tensor)) == 1
            and tensor not in self._final
        )

    def _fold(self, name: str, step: Step) -> None:
        """Folds a step: kernel * scale, bias * scale + offset."""
        position = self._positions[name]
        node = self._nodes[position]
        scale = step.weights["depthwise_kernel"].ravel()
        bias = self._arrays.get(f"{name}/bias", np.zeros_like(scale)) * scale
        self._arrays[f"{name}/bias"] = bias + step.weights.get("bias", np.float32(0))
        depthwise = node.kind == "depthwise_conv2d"
        kernel = f"{name}/{'depthwise_kernel' if depthwise else 'kernel'}"
        shape = self._arrays[kernel].shape
        self._arrays[kernel] = self._arrays[kernel] * (
            scale.reshape(shape[2:]) if depthwise else scale
        )
        attributes = node.attributes | {"use_bias": True}
        self._nodes[position] = dataclasses.replace(node, attributes=attributes)

    def _is_first_range(self, operator: Operator, source: str) -> bool:
        """Whether it quantizes a float tensor that nothing else reads and that takes its range."""
        alone = len(self._graph.consumers(operator.inputs[0])) == 1
        return operator.kind == "QUANTIZE" and alone and source not in self._ranges

    def _inputs_of(self, operator: Operator) -> list[str]:
        indices = data_inputs(self._graph, operator)
        if missing := [index for index in indices if index not in self._names]:
            reason = f"damaged (tensor {missing[0]} is read before it is computed)"
            raise ValueError(_problem(self._graph, operator, reason=reason))
        if not indices:
            reason = "all of its inputs are constant; fold it before the import"
            raise ValueError(_problem(self._graph, operator, reason=reason))
        return [self._names[index] for index in indices]

    def _add(self, tensor: Tensor, inputs: list[str], *, steps: list[Step]) -> str:
        """Adds a chain of nodes; the last takes the tensor's name."""
        base = self._unique(layer_name(tensor))
        for step in steps:
            name = base if step is steps[-1] else self._unique(f"{base}{step.suffix}")
            self._positions[name] = len(self._nodes)
            self._nodes.append(
                Node(name, step.kind, inputs=tuple(inputs), attributes=_plain(step.attributes))
            )
            for weight, value in step.weights.items():
                self._arrays[f"{name}/{weight}"] = np.array(value, np.float32, order="C")
            inputs = [name]
        return base

    def _unique(self, name: str) -> str:
        # The file system and the weights file are case-sensitive, but readers are not.
        candidate, number = name, self._numbers.get(name.lower(), 1)
        while candidate.lower() in self._taken:
            number += 1
            candidate = f"{name}_{number}"
        self._numbers[name.lower()] = number
        self._taken.add(candidate.lower())
        return candidate

    def _remember(self, tensor: Tensor, name: str) -> None:
        if tensor.index not in self._in_batches and tensor.index not in self._batchless:
            self.shapes[name] = tensor.shape[1:]
            if len(tensor.shape) == 4:
                self._sizes[tensor.shape[1], tensor.shape[2]] = name
        found = activation_range(tensor)
        if found and name not in self._ranges:
            self._ranges[name] = found

    def finish(self) -> ImportedNetwork:
        """Returns the network up to its output.

        Raises:
            ValueError: the tensor is the input itself.
        """
        names = {self._graph.tensors[index].name: name for index, name in self._names.items()}
        tensors: dict[str, int] = {}
        for index in self._outputs:
            if index not in self._names or self._names[index] == layer_name(self._input):
                raise ValueError(
                    f"{self._graph.path}: its output {self._graph.tensors[index].name!r} is "
                    "computed by no operator"
                )
            tensors.setdefault(self._names[index], index)
        output, *further = tensors
        names_of_file = {
            name: self._graph.tensors[index].name
            for index in self._graph.outputs
            for name, known in tensors.items()
            if known == index
        }
        description = NetworkGraph(
            layer_name(self._input),
            self._input.shape[1:],
            nodes=tuple(self._nodes),
            output_name=output,
            further_outputs=tuple(further),
            named_outputs=tuple(names_of_file.items()) if further else (),
        )
        return ImportedNetwork(
            description,
            self._arrays,
            ranges=self._ranges,
            contract=input_contract(self._input, FileDescription()),
            rows=tuple(self._rows),
            nodes_of_tensors=names,
            output_tensors=tuple(tensors.values()),
        )


def _stays_in_batches(operator: Operator, in_batches: set[int]) -> bool:
    if operator.kind == "SPACE_TO_BATCH_ND":
        return True
    return operator.kind != "BATCH_TO_SPACE_ND" and not in_batches.isdisjoint(operator.inputs)


_OF_DAMAGE = (AttributeError, IndexError, TypeError, ZeroDivisionError)
"""What options of another operator, missing inputs and sizes of 0 end in."""
_WITHOUT_BATCH = (
    *("FULLY_CONNECTED", "ADD", "SUB", "MUL", "DIV", "RELU", "RELU6", "GELU", "TANH", "LOGISTIC"),
    *("QUANTIZE", "DEQUANTIZE", "HARD_SWISH", "RSQRT", "SQUARED_DIFFERENCE", "SOFTMAX"),
    "GATHER_ND",
)
"""Operators that work along the last axis or on single values, so that a batch of 1 in front
changes nothing."""
_REDUCTIONS = ("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN")
_BROADCASTING = ("ADD", "SUB", "MUL", "DIV", "SQUARED_DIFFERENCE", "BATCH_MATMUL")
"""Operators of two tensors: one that lacks the batch is broadcast to one that has it."""


def _loses_batch(graph: Graph, operator: Operator, batchless: set[int]) -> bool:
    """Whether the operator's output lacks the batch of 1 that the network keeps.

    Matrices of transformers are flattened to [positions, channels] for a product and restored
    after it; Keras' layer norm takes means over a batch of 1 and all axes but the last.
    """
    source = graph.tensors[operator.inputs[0]].shape if operator.inputs else ()
    target = graph.tensors[operator.outputs[0]].shape
    inside = not batchless.isdisjoint(operator.inputs)
    if operator.kind in _REDUCTIONS and not inside:
        axes = graph.tensors[operator.inputs[1]].data
        over_batch = axes is not None and 0 in np.ravel(axes) % max(len(source), 1)
        return bool(over_batch) and not operator.options.keepDims
    if operator.kind == "TRANSPOSE" and (inside or source[:1] == (1,)):
        order = graph.tensors[operator.inputs[1]].data
        moved = order is not None and order.size > 0 and int(order.ravel()[0]) != 0
        return (inside or moved) and target[:1] != (1,)
    if operator.kind == "FULLY_CONNECTED" and len(target) == 2 < len(source):
        return source[0] == 1 and target[0] != 1 and target[0] * source[-1] == math.prod(source)
    if operator.kind in _BROADCASTING and inside:
        return batchless.issuperset(data_inputs(graph, operator))
    if operator.kind == "RESHAPE":
        row = len(target) == 1 and source[-1] == math.prod(source)
        drops = source[:1] == (1,) and target[:1] != (1,) and (len(target) > 1 or row)
        consumers = graph.consumers(operator.outputs[0])
        return target[:1] != (1,) if inside else drops and bool(consumers)
    if operator.kind == "FULLY_CONNECTED" and operator.inputs[0] not in batchless:
        return False  # only its computed weights lack the batch
    if inside and operator.kind not in _WITHOUT_BATCH:
        raise ValueError(_problem(graph, operator, reason="its input has lost its batch of 1"))
    return inside


def _damaged(graph: Graph, operator: Operator, error: Exception) -> str:
    reason = f"damaged ({type(error).__name__}: {error})"
    return _problem(graph, operator, reason=reason)


def _plain(value: Any) -> Any:
    """Returns attributes as JSON values."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _became(steps: list[Step], operator: Operator) -> str:
    if not steps:
        absorbed = operator.kind in ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
        return "part of the dilated convolution" if absorbed else "nothing: values unchanged"
    words = []
    for step in steps:
        layer = KINDS[step.kind].__name__ if step.kind in KINDS else step.kind
        words.append(f"{layer} ({step.note})" if step.note else layer)
    return " + ".join(words)


def _check_shapes(
    graph: Graph, description: NetworkGraph, *, shapes: dict[str, tuple[int, ...]]
) -> None:
    """Checks that every layer has the output shape of the file.

    Raises:
        ValueError: a layer has another shape; the first one is named.
    """
    model = build_model(description)
    built = {layer.name: tuple(layer.output.shape)[1:] for layer in model.layers}
    for name, shape in shapes.items():
        if name in built and built[name] != shape and name not in description.outputs:
            raise ShapeMismatchError(
                f"{graph.path}: layer {name!r}: expected shape {list(shape)} as in the file, got "
                f"{list(built[name])}; the file is damaged or its operator is not supported"
            )

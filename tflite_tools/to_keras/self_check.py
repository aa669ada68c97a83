"""Compares a file with its imported network on the same inputs and names the first deviation."""

import dataclasses
from typing import Any

import numpy as np
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.weights.matching import load_named
from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.runtime.interpreter import Kernels
from tflite_tools.to_keras.file_tensors import run_tensors
from tflite_tools.to_keras.importer import ImportedNetwork, ReportRow, layer_name
from tflite_tools.to_keras.view import INTEGER_RANGES

LARGEST_DEVIATION = 1e-3
"""Largest accepted deviation of a float file's output, as a share of the range of its values."""
LEAST_AGREEMENT = 0.995
"""Smallest accepted agreement of an integer file's output; below it a warning names the first
node that deviates."""
ROUGH_DEVIATION = 0.25
"""Largest accepted deviation of a dynamic-range file's output, as a share of its range. Rounding
activations to 8 bits explains less; above it a warning names the first node that deviates."""
_NOISE_IMAGES = 3
"""One of them must agree: two values that are equal but for rounding also occur in noise."""
PICTURES = 4
"""Largest number of inputs that are run."""

FLOAT, DYNAMIC_RANGE, INTEGER = "float", "dynamic range", "integer"
_HYBRID = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")


@dataclasses.dataclass(frozen=True)
class OutputCheck:
    """Comparison of one output of the file with that of the network.

    Attributes:
        tensor: name in the file.
        agreement: share of equal classes; of equal values where there is at most one channel.
        largest_difference: largest difference of a value, dequantized; None for class maps.
        value_range: largest minus smallest value of the file; None for class maps.
        allowed: largest accepted difference: a share of the range, or half a step.
    """

    tensor: str
    agreement: float
    largest_difference: float | None
    value_range: float | None
    allowed: float

    @property
    def deviates(self) -> bool:
        """Whether a value differs by more than is allowed."""
        return self.largest_difference is not None and self.largest_difference > self.allowed

    def line(self) -> str:
        """Returns the comparison in one line."""
        text = f"output {self.tensor!r}: {100 * self.agreement:.3f}% equal"
        if self.largest_difference is not None:
            text += f", largest difference {self.largest_difference:.3g}"
            text += f" of a range of {self.value_range:.3g}"
        return text


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """The result of a comparison.

    Attributes:
        arithmetic: FLOAT, DYNAMIC_RANGE or INTEGER; an integer file is compared with the
            network that simulates its quantization.
        inputs: number and kind of the inputs, in words.
        kernels: kernels that ran the file.
        outputs: one per output.
        first_deviating_node: name and operator, if an output deviates; else empty.
        not_run: why the runtime does not run the file; else empty.
    """

    arithmetic: str
    inputs: str
    kernels: Kernels
    outputs: tuple[OutputCheck, ...]
    first_deviating_node: str = ""
    not_run: str = ""

    def lines(self) -> list[str]:
        """Returns the lines for the log and the report."""
        if self.not_run:
            return [f"not checked against the file: {self.not_run}"]
        lines = [f"Checked against the file ({self.kernels} kernels) on {self.inputs}:"]
        lines += [output.line() for output in self.outputs]
        if self.arithmetic == INTEGER:
            lines[0] = lines[0].replace("Checked", "Checked, quantization simulated,")
        if self.first_deviating_node:
            lines.append(f"the first node that deviates: {self.first_deviating_node}")
        if self.arithmetic == DYNAMIC_RANGE:
            lines.append("the file rounds activations to 8 bits as it runs, the network does not")
        return lines


def check(
    graph: Graph, network: ImportedNetwork, *, inputs: list[np.ndarray], description: str
) -> SelfCheck:
    """Compares an imported network with its file.

    Args:
        graph: the file.
        network: the network as it was read, without edits.
        inputs: float32 [1, ...] each, the network's real input; the first `PICTURES` are run.
        description: the inputs in words.

    Raises:
        ValueError: a float file deviates by more than `LARGEST_DEVIATION` of its range; the
            first node that deviates is named.
    """
    arithmetic = _arithmetic(graph, network)
    comparison = _Comparison(graph, network, arithmetic=arithmetic)
    inputs = [comparison.in_batches(real) for real in inputs[:PICTURES]]
    try:
        outputs = comparison.compare_outputs(inputs)
        if _unclear(outputs, arithmetic) and _places_equal_values(network):
            description = f"noise, since a pool places the equal values of {description} anywhere"
            for noise in _noise(inputs):
                inputs = [noise]
                outputs = comparison.compare_outputs(inputs)
                if _unclear(outputs, arithmetic) is None:
                    break
    except RuntimeError as error:
        return SelfCheck(
            arithmetic,
            description,
            kernels=comparison.kernels,
            outputs=(),
            first_deviating_node="",
            not_run=str(error),
        )
    result = SelfCheck(arithmetic, description, kernels=comparison.kernels, outputs=outputs)
    doubtful = _unclear(outputs, arithmetic)
    if doubtful is None:
        return result
    node = comparison.first_deviating_node(inputs)
    # A class map alone may differ where two classes are equally likely.
    if arithmetic == FLOAT and (doubtful.deviates or node):
        raise ValueError(
            f"{graph.path.name}: the imported network does not compute what the file computes: "
            f"{doubtful.line()}; at most {LARGEST_DEVIATION:g} of the range is accepted; the first "
            f"node that deviates: {node or 'none by itself'}"
        )
    return dataclasses.replace(result, first_deviating_node=node)


def _unclear(outputs: tuple[OutputCheck, ...], arithmetic: str) -> OutputCheck | None:
    return next((output for output in outputs if _is_doubtful(output, arithmetic)), None)


def _places_equal_values(network: ImportedNetwork) -> bool:
    """Whether a pool gives the places of its values: in a constant picture all are equal."""
    return any(node.kind == "pool_argmax" for node in network.description.nodes)


def _noise(inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Returns images of seeded noise in the inputs' range."""
    random = np.random.default_rng(0)
    ends = min(float(real.min()) for real in inputs), max(float(real.max()) for real in inputs)
    return [random.uniform(*ends, inputs[0].shape).astype(np.float32) for _ in range(_NOISE_IMAGES)]


def _is_doubtful(output: OutputCheck, arithmetic: str) -> bool:
    unequal = output.agreement < LEAST_AGREEMENT
    if arithmetic == INTEGER:
        return unequal
    return output.deviates or (arithmetic == FLOAT and unequal)


def _arithmetic(graph: Graph, network: ImportedNetwork) -> str:
    if network.is_quantized:
        return INTEGER
    operators = [graph.operators[row.position] for row in network.rows]
    rounds = any(
        operator.kind in _HYBRID
        and any(graph.tensors[i].quantization is not None for i in operator.inputs[:2] if i >= 0)
        for operator in operators
    )
    return DYNAMIC_RANGE if rounds else FLOAT


class _Comparison:
    """A file and its network, ready to run.

    Attributes:
        kernels: kernels that ran the file last.
        outputs: the tensors of the file that are the network's outputs, in its order.
        model: the network, with simulated quantization for an integer file.
    """

    def __init__(self, graph: Graph, network: ImportedNetwork, *, arithmetic: str) -> None:
        self._graph, self._network = graph, network
        self._allowed = ROUGH_DEVIATION if arithmetic == DYNAMIC_RANGE else LARGEST_DEVIATION
        self.kernels = Kernels.XNNPACK
        self.outputs = [graph.tensors[index] for index in network.output_tensors]
        self._input = next(
            graph.tensors[index]
            for index in graph.inputs
            if layer_name(graph.tensors[index]) == network.description.input_name
        )
        description = network.description
        if arithmetic == INTEGER:
            description = simulate_quantization(description, network.ranges)
        self.model = build_model(description, all_outputs=True)
        if network.arrays:
            report = load_named(self.model, network.arrays)
            if report.missing or report.mismatched:
                raise ValueError(f"{graph.path}: its weights do not fit: {report.lines()[1]}")

    def in_batches(self, real: np.ndarray) -> np.ndarray:
        """Returns as many inputs as the file takes at once, each moved by one row.

        Args:
            real: [1, ...].
        """
        count = max(self._input.shape[0], 1)
        return np.concatenate([np.roll(real, row, axis=1) for row in range(count)])

    def run_file(self, tensors: list[Tensor], inputs: list[np.ndarray]) -> list[list[np.ndarray]]:
        """Returns the real values of tensors; integers without a scale are unchanged.

        Args:
            tensors: computed tensors of the file.
            inputs: real inputs, one per run.

        Returns:
            Per input one array per tensor.

        Raises:
            RuntimeError: neither XNNPACK nor the built-in kernels run the file.
        """
        stored = [_stored(real, self._input) for real in inputs]
        indices = [tensor.index for tensor in tensors]
        found, self.kernels = run_tensors(
            self._graph.path,
            indices,
            inputs=stored,
            position=self._graph.inputs.index(self._input.index),
            kernels=Kernels.BUILTIN if self.kernels is Kernels.BUILTIN else None,
        )
        return [[_real(*pair) for pair in zip(values, tensors, strict=True)] for values in found]

    def compare_outputs(self, inputs: list[np.ndarray]) -> tuple[OutputCheck, ...]:
        """Compares all outputs over all inputs.

        Args:
            inputs: real inputs, one per run.

        Raises:
            RuntimeError: neither XNNPACK nor the built-in kernels run the file.
        """
        references = self.run_file(self.outputs, inputs)
        rebuilt = [_arrays(self.model(real, training=False)) for real in inputs]
        return tuple(
            self.compare(
                tensor, [found[place] for found in references], [found[place] for found in rebuilt]
            )
            for place, tensor in enumerate(self.outputs)
        )

    def compare(
        self, tensor: Tensor, references: list[np.ndarray], rebuilt: list[np.ndarray]
    ) -> OutputCheck:
        """Compares the values of one tensor over all inputs.

        Args:
            tensor: tensor of the file.
            references: its values in the file, one array per input.
            rebuilt: its values in the network, one array per input.
        """
        return _compare(tensor, references, rebuilt=rebuilt, share=self._allowed)

    def first_deviating_node(self, inputs: list[np.ndarray]) -> str:
        """Returns the first node that deviates, in the order of execution.

        A float node deviates by more than `LARGEST_DEVIATION` of its range (`ROUGH_DEVIATION` in
        a dynamic-range file), an integer node by more than half a step.

        Args:
            inputs: real inputs, one per run.

        Returns:
            "'name' (operator 7, CONV_2D)"; "" where no node deviates.
        """
        nodes = self._nodes()
        model = keras.Model(self.model.inputs, [self._value(node) for node in nodes])
        tensors = [self._graph.tensors[row.index] for row in nodes.values()]
        for real in inputs:
            (references,) = self.run_file(tensors, [real])
            rebuilt = _arrays(model(real, training=False))
            for node, tensor, reference, value in zip(
                nodes, tensors, references, rebuilt, strict=True
            ):
                if self.compare(tensor, [reference], [value]).deviates:
                    row = nodes[node]
                    return f"{node!r} (operator {row.position}, {row.operator})"
        return ""

    def _nodes(self) -> dict[str, ReportRow]:
        """Returns {node: what it was imported from} where both have the same values."""
        nodes: dict[str, ReportRow] = {}
        for row in self._network.rows:
            tensor = self._graph.tensors[row.index]
            node = self._network.nodes_of_tensors[tensor.name]
            known = node in nodes or node == self._network.description.input_name
            if not known and np.prod(self._value(node).shape[1:]) == np.prod(tensor.shape):
                nodes[node] = row
        return nodes

    def _value(self, node: str) -> Any:
        """Returns the symbolic output of a node, rounded where it is simulated."""
        names = {layer.name for layer in self.model.layers}
        rounded = f"{node}_simulated"
        return self.model.get_layer(rounded if rounded in names else node).output


def _arrays(values: Any) -> list[np.ndarray]:
    """Returns the outputs of a model as arrays; a model with one output returns no list."""
    return [np.asarray(value) for value in (values if isinstance(values, list) else [values])]


def _stored(real: np.ndarray, tensor: Tensor) -> np.ndarray:
    """Quantizes a real input to the type of the file's input."""
    if tensor.dtype is None:
        raise RuntimeError(f"its input has type {tensor.type_name}")
    if tensor.quantization is None:
        return real.astype(tensor.dtype)
    low, high = INTEGER_RANGES[tensor.type_name]
    steps = np.round(real / tensor.quantization.scale[0]) + tensor.quantization.zero_point[0]
    return np.clip(steps, low, high).astype(tensor.dtype)


def _real(value: np.ndarray, tensor: Tensor) -> np.ndarray:
    if tensor.quantization is None or tensor.is_float:
        return value
    offset = value.astype(np.float32) - np.float32(tensor.quantization.zero_point[0])
    return tensor.quantization.scale[0] * offset


def _has_classes(shape: tuple[int, ...]) -> bool:
    """Returns whether the last axis of an output, with its batch, can be one of classes.

    Of [1, 4, 1344] it cannot: boxes, whose positions are on the last axis.
    """
    positions = shape[-2] if len(shape) == 3 else shape[-1]
    return len(shape) > 1 and 1 < shape[-1] <= positions


def _compare(
    tensor: Tensor, references: list[np.ndarray], *, rebuilt: list[np.ndarray], share: float
) -> OutputCheck:
    """Compares over all inputs; a batch dimension of 1 may be missing on one side."""
    reference = np.stack(
        [one.reshape(two.shape) for one, two in zip(references, rebuilt, strict=True)]
    )
    found = np.stack(rebuilt)
    if not np.issubdtype(reference.dtype, np.floating):
        return OutputCheck(
            tensor.name,
            float((reference == found).mean()),
            largest_difference=None,
            value_range=None,
            allowed=0.5,
        )
    difference = np.abs(reference.astype(np.float64) - found)
    # Where both are not finite they agree if they are the same.
    difference[(reference == found) | (np.isnan(reference) & np.isnan(found))] = 0
    difference = np.nan_to_num(difference, nan=np.inf)
    finite = reference[np.isfinite(reference)]
    value_range = float(finite.max() - finite.min()) if finite.size else 0.0
    allowed = share * value_range
    if tensor.quantization is not None and not tensor.is_float:
        allowed = 0.5 * float(tensor.quantization.scale[0])
    equal = difference <= allowed
    if _has_classes(found.shape[1:]):
        equal = reference.argmax(-1) == found.argmax(-1)
    largest = float(difference.max())
    return OutputCheck(
        tensor.name,
        float(equal.mean()),
        largest_difference=largest,
        value_range=value_range,
        allowed=allowed,
    )

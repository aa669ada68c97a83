"""An integer `.tflite` as a network that is computed node by node, its biases free to change."""

import collections
import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.executor import QUANTIZED, Executor
from deeplab_tf.graph.kernels import WITH_KERNEL, bias_key
from deeplab_tf.graph.network import Node
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.quantization.calibration.empty_pixels import weights_of
from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph
from tflite_tools.to_keras.rules import RULES
from tflite_tools.to_keras.view import INTEGER_RANGES

_INT32_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SkippedLayer:
    """A layer whose biases are as they were, and why."""

    position: int
    kind: str
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class CorrectableLayer:
    """A layer whose bias can be corrected.

    Attributes:
        operator: in the file.
        node: in the imported network.
        bias: int64 [channels], as stored.
        scale: float64 [channels], input_scale * weight_scale, the real value of a step.
        largest: int64 [channels], largest absolute bias with which the int32 sum of bias and
            products cannot overflow, whatever the input; at least the stored one.
    """

    operator: Operator
    node: Node
    bias: np.ndarray
    scale: np.ndarray
    largest: np.ndarray


@dataclasses.dataclass(frozen=True)
class IntegerFile:
    """The file as a network.

    Attributes:
        network: up to the output, or up to where it is known.
        whole: whether that is the output.
        convolutions: its nodes with a kernel, in the file's order.
        layers: those whose bias can be corrected.
        skipped: all other convolutions of the file.
    """

    network: ImportedNetwork
    whole: bool
    convolutions: list[Node]
    layers: list[CorrectableLayer]
    skipped: list[SkippedLayer]


def read_file(graph: Graph) -> IntegerFile:
    """Raises ValueError where no layer can be corrected."""
    end = last_known_tensor(graph)
    network = import_graph(graph, end)
    imported = {row.position for row in network.rows}
    names = collections.Counter(tensor.name for tensor in graph.tensors if tensor.data is None)
    file = IntegerFile(network, not end, convolutions=[], layers=[], skipped=[])
    for operator in graph.operators:
        if operator.kind not in CONVOLUTIONS:
            continue
        name = graph.tensors[operator.outputs[0]].name
        try:
            if operator.position not in imported:
                raise ValueError(f"it is not in front of {end!r}, where the known part ends")
            if names[name] > 1:
                raise ValueError(f"{names[name]} tensors have its output's name")
            node = _node_with_kernel(network, name)
            file.convolutions.append(node)
            file.layers.append(_layer(graph, operator, node=node))
        except ValueError as error:
            reason = str(error)
            file.skipped.append(
                SkippedLayer(operator.position, operator.kind, name=name, reason=reason)
            )
    if not file.layers:
        first = next((f" ({left.kind}: {left.reason})" for left in file.skipped), "")
        raise ValueError(
            f"{graph.path} has no int32 bias to correct{first}; give an int8 or uint8 file"
        )
    return file


def last_known_tensor(graph: Graph) -> str:
    """Up to which tensor the file can be simulated; "" for its output.

    Behind an operator without a rule nothing is known, and only one output is followed: of
    several, and of the tensors in front of such an operator, the one with most convolutions.

    Raises:
        ValueError: there is no convolution in front of it.
    """
    before: dict[int, frozenset[int]] = {index: frozenset() for index in graph.inputs}
    for operator in graph.operators:
        inputs = [i for i in operator.inputs if i >= 0 and graph.tensors[i].data is None]
        if operator.kind in RULES and all(index in before for index in inputs):
            own = {operator.position} if operator.kind in CONVOLUTIONS else set()
            joined = frozenset(own).union(*(before[index] for index in inputs))
            before.update(dict.fromkeys(operator.outputs, joined))
    if len(graph.outputs) == 1 and graph.outputs[0] in before:
        return ""
    end = max(before, key=lambda index: len(before[index]))
    if not before[end]:
        unknown = sorted({op.kind for op in graph.operators if op.kind not in RULES})
        raise ValueError(
            f"{graph.path} has no convolution that can be followed from its input; operators "
            f"that are not supported: {', '.join(unknown) or 'none'}"
        )
    return graph.tensors[end].name


def _node_with_kernel(network: ImportedNetwork, tensor: str) -> Node:
    """The convolution's own node; an activation that is fused into it stands behind."""
    node = network.description.node(network.nodes_of_tensors[tensor])
    while node.kind not in WITH_KERNEL:
        node = network.description.node(node.inputs[0])
    return node


def _layer(graph: Graph, operator: Operator, *, node: Node) -> CorrectableLayer:
    """Raises ValueError with "it ..." or "its ..." where the bias cannot be corrected."""
    row = traits(operator.kind)
    if len(operator.inputs) <= row.slots[-1] or operator.inputs[row.slots[-1]] < 0:
        raise ValueError("it has no bias")
    data, weights, bias = (graph.tensors[operator.inputs[slot]] for slot in row.slots)
    if bias.type_name != "INT32" or bias.data is None:
        raise ValueError(f"its bias is {bias.type_name}")
    if data.quantization is None or weights.quantization is None or weights.data is None:
        raise ValueError("its input or its weights are not quantized")
    if data.type_name not in INTEGER_RANGES:
        raise ValueError(f"its input is {data.type_name}")
    low, high = INTEGER_RANGES[data.type_name]
    zero_point = int(data.quantization.zero_point[0])
    kernel = np.moveaxis(weights.data.astype(np.int64), row.channel_axis, -1)
    kernel = np.abs(kernel - weights.quantization.zero_point)
    products = kernel.reshape(-1, bias.data.size).sum(0) * max(zero_point - low, high - zero_point)
    values = bias.data.ravel().astype(np.int64)
    # The product is rounded to float32, as the kernels' own is.
    scale = data.quantization.scale[0] * weights.quantization.scale
    if scale.min() <= 0:
        raise ValueError("its scale is 0")
    return CorrectableLayer(
        operator,
        node,
        bias=values,
        scale=np.broadcast_to(scale.astype(np.float64), values.shape),
        largest=np.maximum(_INT32_MAX - products, np.abs(values)),
    )


def channel_mean(value, shares=None):
    """[batch, ..., channels] -> float64 [channels].

    Args:
        shares: float64 [positions], what each counts (`PixelWeights.of`); None for all alike.
    """
    value = tf.cast(value, tf.float64)
    if shares is None:
        return tf.reduce_mean(value, tuple(range(len(value.shape) - 1)))
    flat = tf.reshape(value, [-1, value.shape[-1]])
    sums = tf.linalg.matvec(flat, shares, transpose_a=True)
    return tf.math.divide_no_nan(sums, tf.reduce_sum(shares))


def mean_of_images(means: list[np.ndarray], counts: list[float]) -> np.ndarray:
    """float64 [channels]: means of photos, each as often as it counts; 0 where none does."""
    weights = np.asarray(counts)
    return weights @ np.stack(means) / max(weights.sum(), np.finfo(np.float64).tiny)


class FileRun:
    """The file's simulation, computed node by node over all photos, so that a bias can change
    between two nodes. What integer tensors hold is kept as integers; what stands between two of
    them is computed again whenever it is asked for.

    Attributes:
        model: the simulation as a Keras model.
        images: the photos.
    """

    def __init__(
        self,
        file: IntegerFile,
        logits: str,
        *,
        images: list[np.ndarray],
        ignore_empty: bool = False,
    ):
        simulated = simulate_quantization(file.network.description, file.network.ranges)
        self._executor = Executor(simulated, file.network.arrays)
        self.model = self._executor.model
        for layer in file.layers:  # float32 does not hold every int32
            self.set_bias(layer.node, layer.bias * layer.scale)
        self.images = images
        self._weights = weights_of(images, ignore_empty)
        follower = simulated.only_consumer(logits)
        rounded = follower is not None and follower.kind == QUANTIZED
        # With an activation inside, the reference has a value to compare before it alone.
        self._logits = follower.name if follower is not None and rounded else logits
        read_often = {
            node.name for node in simulated.nodes if len(simulated.consumers(node.name)) > 1
        }
        self._run = self._executor.start(
            images,
            keep=lambda node: node.kind == QUANTIZED or node.name in read_often,
            hold=(self._logits,),
        )

    def __iter__(self) -> Iterator[Node]:
        """Nodes in the order of execution; each is computed when the next is asked for."""
        for node in self._executor.network.nodes:
            yield node
            self._run.step(node)

    def mean(self, name: str) -> np.ndarray:
        """float64 [channels], over all photos."""
        means, counts = [], []
        for photo, weights in enumerate(self._weights):
            value = self._run.value(name, photo)
            shares = None if weights is None else weights.of(value)
            means.append(channel_mean(value, shares).numpy())
            counts.append(1.0 if shares is None else shares.sum())
        return mean_of_images(means, counts)

    def set_bias(self, node: Node, real: np.ndarray) -> None:
        """Changes the bias of a convolution, in real values."""
        self._executor.set_weight(bias_key(node), real)

    def logits(self) -> list[np.ndarray]:
        """Of each photo, after the run."""
        return [np.asarray(value) for value in self._run.values(self._logits)]

    def uncorrected_logits(self) -> list[np.ndarray]:
        """Of each photo, before the run."""
        layer = self.model.get_layer(self._logits)
        run = tf.function(keras.Model(self.model.input, layer.output))
        return [run(tf.constant(image)).numpy() for image in self.images]

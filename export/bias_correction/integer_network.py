"""An integer `.tflite` as a network that runs node by node and whose biases can be changed."""

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
from deeplab_tf.quantization.calibration.empty_pixels import pixel_weights
from tflite_tools.flatbuffer.graph import Graph, Operator
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph
from tflite_tools.to_keras.rules import rule_of
from tflite_tools.to_keras.view import INTEGER_RANGES

_INT32_MAX = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class SkippedLayer:
    """A layer whose biases were not corrected.

    Attributes:
        position: of its operator in the file.
        kind: of the operator.
        name: of the layer, from the tensor that it computes.
        reason: why it was skipped.
    """

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
        scale: float64 [channels], input_scale * weight_scale, the real value of one bias step.
        largest: int64 [channels], largest absolute bias for which the int32 sum of bias and
            products cannot overflow with any input; at least the stored one.
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
        network: up to the output, or up to the last tensor that can be simulated.
        whole: whether it reaches the output.
        convolutions: its nodes with a kernel, in the file's order.
        layers: the layers whose bias can be corrected.
        skipped: all other convolutions of the file.
    """

    network: ImportedNetwork
    whole: bool
    convolutions: list[Node]
    layers: list[CorrectableLayer]
    skipped: list[SkippedLayer]


def read_file(graph: Graph) -> IntegerFile:
    """Reads an integer file as a network.

    Args:
        graph: the file.

    Returns:
        the network, its layers that can be corrected, and the others.

    Raises:
        ValueError: no layer can be corrected.
    """
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
                raise ValueError(f"it is not before {end!r}, the last tensor that can be simulated")
            if names[name] > 1:
                raise ValueError(f"{names[name]} tensors have the name of its output")
            node = _node_with_kernel(network, name)
            file.convolutions.append(node)
            file.layers.append(_layer(graph, operator, node=node))
        except ValueError as error:
            reason = str(error)
            file.skipped.append(
                SkippedLayer(operator.position, operator.kind, name=name, reason=reason)
            )
    if not file.layers:
        first = next((f" ({layer.kind}: {layer.reason})" for layer in file.skipped), "")
        raise ValueError(
            f"{graph.path} has no int32 bias to correct{first}; give an int8 or uint8 file"
        )
    return file


def last_known_tensor(graph: Graph) -> str:
    """Finds the last tensor up to which the file can be simulated.

    The simulation ends before an operator without a rule, and it follows only one output: among
    several outputs, and among the tensors before such an operator, the one with most convolutions
    before it.

    Args:
        graph: the file.

    Returns:
        the name of the tensor; "" for the file's output.

    Raises:
        ValueError: there is no convolution before it.
    """
    before: dict[int, frozenset[int]] = {index: frozenset() for index in graph.inputs}
    for operator in graph.operators:
        inputs = [i for i in operator.inputs if i >= 0 and graph.tensors[i].data is None]
        if rule_of(operator.kind) is not None and all(index in before for index in inputs):
            own = {operator.position} if operator.kind in CONVOLUTIONS else set()
            joined = frozenset(own).union(*(before[index] for index in inputs))
            before.update(dict.fromkeys(operator.outputs, joined))
    if len(graph.outputs) == 1 and graph.outputs[0] in before:
        return ""
    end = max(before, key=lambda index: len(before[index]))
    if not before[end]:
        unknown = sorted({op.kind for op in graph.operators if rule_of(op.kind) is None})
        raise ValueError(
            f"{graph.path} has no convolution that can be simulated from its input; give a file "
            f"without these unsupported operators: {', '.join(unknown) or 'none'}"
        )
    return graph.tensors[end].name


def _node_with_kernel(network: ImportedNetwork, tensor: str) -> Node:
    """Returns the node of a convolution; a fused activation is a node behind it."""
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
    # The product is rounded to float32, as in the runtime's kernels.
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


def channel_mean(value: tf.Tensor, shares: np.ndarray | tf.Tensor | None = None) -> tf.Tensor:
    """Computes the mean of each channel.

    Args:
        value: [batch, ..., channels].
        shares: float64 [positions], weight of each position (`PixelWeights.of`); None for equal
            weights.

    Returns:
        float64 [channels].
    """
    value = tf.cast(value, tf.float64)
    if shares is None:
        return tf.reduce_mean(value, tuple(range(len(value.shape) - 1)))
    flat = tf.reshape(value, [-1, value.shape[-1]])
    sums = tf.linalg.matvec(flat, shares, transpose_a=True)
    return tf.math.divide_no_nan(sums, tf.reduce_sum(shares))


def mean_of_images(means: list[np.ndarray], counts: list[float]) -> np.ndarray:
    """Averages the channel means of images, weighted.

    Args:
        means: float64 [channels] of each image.
        counts: weight of each image.

    Returns:
        float64 [channels]; 0 where all weights are 0.
    """
    weights = np.asarray(counts)
    return weights @ np.stack(means) / max(weights.sum(), np.finfo(np.float64).tiny)


class FileRun:
    """The simulation of a file, node by node over all images: a bias can change between two nodes.

    The values of quantized tensors are stored; those between two of them are computed again at
    each use.

    Args:
        file: the file.
        logits: name of the node that gives the logits.
        images: real values of the input, float32 [1, height, width, channels] each.
        ignore_empty: give no weight to the empty pixels of range images.

    Attributes:
        model: the simulation as a Keras model.
        images: the images.
    """

    def __init__(
        self,
        file: IntegerFile,
        logits: str,
        *,
        images: list[np.ndarray],
        ignore_empty: bool = False,
    ) -> None:
        simulated = simulate_quantization(file.network.description, file.network.ranges)
        self._executor = Executor(simulated, file.network.arrays)
        self.model = self._executor.model
        for layer in file.layers:  # float32 does not hold every int32
            self.set_bias(layer.node, layer.bias * layer.scale)
        self.images = images
        self._weights = pixel_weights(images, ignore_empty)
        follower = simulated.only_consumer(logits)
        rounded = follower is not None and follower.kind == QUANTIZED
        # With a fused activation, the reference's value exists only before the activation.
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
        """Yields nodes in the order of execution; each is computed when the next is requested."""
        for node in self._executor.network.nodes:
            yield node
            self._run.step(node)

    def mean(self, name: str) -> np.ndarray:
        """Returns the channel means of a node over all images, float64 [channels]."""
        means, counts = [], []
        for image, weights in enumerate(self._weights):
            value = self._run.value(name, image)
            shares = None if weights is None else weights.of(value)
            means.append(channel_mean(value, shares).numpy())
            counts.append(1.0 if shares is None else shares.sum())
        return mean_of_images(means, counts)

    def set_bias(self, node: Node, real: np.ndarray) -> None:
        """Changes the bias of a convolution.

        Args:
            node: the convolution.
            real: float64 [channels], real values.
        """
        self._executor.set_weight(bias_key(node), real)

    def logits(self) -> list[np.ndarray]:
        """Returns the logits of each image after the run."""
        return [np.asarray(value) for value in self._run.values(self._logits)]

    def uncorrected_logits(self) -> list[np.ndarray]:
        """Returns the logits of each image before any bias was changed."""
        layer = self.model.get_layer(self._logits)
        run = tf.function(keras.Model(self.model.input, layer.output))
        return [run(tf.constant(image)).numpy() for image in self.images]

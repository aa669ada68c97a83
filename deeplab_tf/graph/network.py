"""The network graph as data: nodes in the order of execution.

Weights are stored separately, as "layer/weight" arrays. The data is plain JSON, and building a
network from it runs only stock Keras layers and the layers of the table `KINDS`.
"""

import dataclasses
import functools
from typing import Any

import tf_keras as keras

from deeplab_tf.field_types import check_field_types
from deeplab_tf.graph import layers as graph_layers
from deeplab_tf.graph.stock_layers import LAYERS, WRAPPERS, foreign_part

layers = keras.layers

IDENTITY = "identity"
"""Kind of a node without a layer: a tensor that passes unchanged but may have its own range."""
RESIZE = "resize"
"""Kind of a resize: {height, width, interpolation, alignment, like}; its layer depends on the
sizes. At another input size it takes the size of the node named by `like`."""

LAYER = "layer"
"""Kind of any other stock layer of Keras: {class_name, config}; edits do not change it."""

KINDS = {
    "conv2d": layers.Conv2D,
    "depthwise_conv2d": layers.DepthwiseConv2D,
    "conv2d_transpose": layers.Conv2DTranspose,
    "dense": layers.Dense,
    "batch_norm": layers.BatchNormalization,
    "add": layers.Add,
    "subtract": layers.Subtract,
    "multiply": layers.Multiply,
    "maximum": layers.Maximum,
    "minimum": layers.Minimum,
    "concatenate": layers.Concatenate,
    "average_pool2d": layers.AveragePooling2D,
    "max_pool2d": layers.MaxPooling2D,
    "global_average_pool2d": layers.GlobalAveragePooling2D,
    "up_sampling2d": layers.UpSampling2D,
    "zero_padding2d": layers.ZeroPadding2D,
    "cropping2d": layers.Cropping2D,
    "reshape": layers.Reshape,
    "rescaling": layers.Rescaling,
    "relu": layers.ReLU,
    "leaky_relu": layers.LeakyReLU,
    "prelu": layers.PReLU,
    "activation": layers.Activation,
    "softmax": layers.Softmax,
    "aligned_resizing": graph_layers.AlignedResizing,
    "hard_swish": graph_layers.HardSwish,
    "clip": graph_layers.Clip,
    "argmax": graph_layers.ArgMax,
    "cast": graph_layers.Cast,
    "reduce_mean": graph_layers.ReduceMean,
    "reduce": graph_layers.Reduce,
    "gather": graph_layers.Gather,
    "stack": graph_layers.Stack,
    "strided_slice": graph_layers.StridedSlice,
    "padding": graph_layers.Padding,
    "pool_argmax": graph_layers.PoolArgMax,
    "max_unpool": graph_layers.MaxUnpool,
    "channel_limit": graph_layers.ChannelLimit,
    "elementwise_constant": graph_layers.ElementwiseConstant,
    "tensor_function": graph_layers.TensorFunction,
    "simulated_quantization": graph_layers.SimulatedQuantization,
    "simulated_add": graph_layers.SimulatedAdd,
    "simulated_table": graph_layers.SimulatedTable,
    "simulated_softmax": graph_layers.SimulatedSoftmax,
}
"""Layer class of each kind; a node's attributes are the arguments of its constructor."""

HIDDEN_LINEAR = "_linear"
"""Suffix of a node whose activation was fused into the same layer or operator."""

_ACTIVATIONS = (
    *("sigmoid", "tanh", "elu", "swish", "gelu", "exponential", "selu", "softplus", "softsign"),
    *("hard_sigmoid", "mish", "leaky_relu", "log_softmax"),
)
"""Activation functions of Keras without a kind of their own."""
CONVOLUTIONS = ("conv2d", "depthwise_conv2d", "conv2d_transpose")
CLASSIFIER = "logits"
"""Name of the classifier that `append_classifier` adds."""


@dataclasses.dataclass(frozen=True)
class Node:
    """One step of the network.

    Attributes:
        name: of the Keras layer.
        kind: key of `KINDS`, "resize", "identity" or "layer".
        inputs: names of nodes, or of the network's input.
        attributes: arguments of the layer, JSON values.
    """

    name: str
    kind: str
    inputs: tuple[str, ...]
    attributes: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_field_types(self)
        if self.kind not in KINDS and self.kind not in (IDENTITY, RESIZE, LAYER):
            raise ValueError(f"node {self.name!r}: unknown kind {self.kind!r}")
        # A string in JSON must not select an arbitrary function that Keras can look up.
        if self.kind == "activation" and self.attributes.get("activation") not in _ACTIVATIONS:
            raise ValueError(
                f"node {self.name!r}: unknown activation {self.attributes.get('activation')!r}; "
                f"known: {', '.join(_ACTIVATIONS)}"
            )
        if self.kind == LAYER:
            stock_layer(self.attributes.get("class_name"), self.name)
            if found := foreign_part(self.attributes):
                raise ValueError(
                    f"node {self.name!r}: its configuration names {found}, which is no stock layer"
                )


def stock_layer(class_name: Any, node_name: str) -> type[keras.layers.Layer]:
    """Returns a class of `keras.layers` that runs no code from its configuration.

    Args:
        class_name: name of the class, from untrusted JSON.
        node_name: the node, for messages.

    Raises:
        ValueError: no class has that name, or the class is not on the allow-list.
    """
    found: Any = getattr(layers, str(class_name), None)
    layer = isinstance(found, type) and issubclass(found, layers.Layer)
    if not layer or class_name not in LAYERS - WRAPPERS:
        raise ValueError(f"node {node_name!r}: {class_name!r} is no stock layer of Keras")
    return found


@dataclasses.dataclass(frozen=True)
class NetworkGraph:
    """A network with one input and one output that is trained, and perhaps further outputs.

    Attributes:
        input_name: of the input layer.
        input_shape: without the batch; [height, width, channels] for images.
        nodes: in the order of execution.
        output_name: node whose value is the network's output.
        further_outputs: nodes whose values an imported file gives as well; `build_model` returns
            them on demand. `cut_after` drops them, `cut_output` keeps them.
        named_outputs: (node, name in the file) of every output in the file's order; empty where
            there is one output.

    Raises:
        ValueError: two nodes have one name, or a node reads a value that no earlier node computes.
    """

    input_name: str
    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output_name: str
    further_outputs: tuple[str, ...] = ()
    named_outputs: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        check_field_types(self)
        known = {self.input_name}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"two nodes are named {node.name!r}")
            if missing := [name for name in node.inputs if name not in known]:
                raise ValueError(
                    f"node {node.name!r} reads {missing[0]!r}, which no earlier node computes"
                )
            known.add(node.name)
        for name in self.outputs:
            if not self.nodes or name not in known - {self.input_name}:
                raise ValueError(f"output {name!r} is not a node of the network")
        named = [node for node, _ in self.named_outputs]
        if named and sorted(named) != sorted(self.outputs):
            raise ValueError(f"the named outputs {named} are not the outputs {list(self.outputs)}")

    @property
    def outputs(self) -> tuple[str, ...]:
        """The nodes of all outputs, the one that is trained first."""
        return (self.output_name, *self.further_outputs)

    def renamed_outputs(self, renamed: dict[str, str]) -> dict[str, Any]:
        """Returns the fields of the outputs where nodes got other names.

        Args:
            renamed: {old name: new name} of some nodes.
        """
        return {
            "output_name": renamed.get(self.output_name, self.output_name),
            "further_outputs": tuple(renamed.get(name, name) for name in self.further_outputs),
            "named_outputs": tuple(
                (renamed.get(node, node), name) for node, name in self.named_outputs
            ),
        }

    def node(self, name: str) -> Node:
        """Returns the node of a name.

        Raises:
            StopIteration: there is none.
        """
        try:
            return self._by_name[name]
        except KeyError:
            raise StopIteration(name) from None

    def consumers(self, name: str) -> list[Node]:
        """Returns the nodes that read a value, in the order of execution."""
        return list(self._readers.get(name, ()))

    @functools.cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @functools.cached_property
    def _readers(self) -> dict[str, list[Node]]:
        readers: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers.setdefault(name, []).append(node)
        return readers

    def only_consumer(self, name: str) -> Node | None:
        """Returns the single node that reads a value; None if several do or it is the output."""
        found = self.consumers(name)
        return found[0] if len(found) == 1 and name not in self.outputs else None

    def to_json(self) -> dict:
        """Returns the network as JSON values; keys of further outputs only where there are any."""
        values = dataclasses.asdict(self)
        for key in ("further_outputs", "named_outputs"):
            if not values[key]:
                del values[key]
        return values

    @classmethod
    def from_json(cls, values: dict) -> "NetworkGraph":
        """Restores a network from `to_json`.

        Args:
            values: as `to_json` returns them; untrusted.

        Raises:
            ValueError: a key is missing or unknown, or a value is not allowed.
        """
        try:
            nodes = tuple(
                Node(**{**node, "inputs": tuple(node["inputs"])}) for node in values["nodes"]
            )
            shape = tuple(values["input_shape"])
            outputs: dict[str, Any] = {
                "further_outputs": tuple(values.get("further_outputs", ())),
                "named_outputs": tuple(
                    (str(node), str(name)) for node, name in values.get("named_outputs", ())
                ),
            }
            return cls(**{**values, "nodes": nodes, "input_shape": shape, **outputs})
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the description of a network ({error})") from error

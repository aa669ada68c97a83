"""A network that came out of a file, as data: nodes in the order of execution.

Weights are not in it; they are "layer/weight" arrays beside it, as in any run folder. The data
is plain JSON, and building it runs nothing but the layers of the table `KINDS`.
"""

import dataclasses

import tf_keras as keras

from deeplab_tf.graph import layers as graph_layers
from deeplab_tf.graph.stock_layers import LAYERS, WRAPPERS, foreign_part

layers = keras.layers

IDENTITY = "identity"
"""Kind of a node that is no layer: a tensor of the file that only has a range of its own."""
RESIZE = "resize"
"""Kind of a resize: {height, width, interpolation, alignment, like}; which layer it becomes
depends on the sizes, and at another input size it follows the node named by `like`."""

LAYER = "layer"
"""Kind of any other stock layer of Keras: {class_name, config}; edits leave it alone."""

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
    "strided_slice": graph_layers.StridedSlice,
    "channel_limit": graph_layers.ChannelLimit,
    "elementwise_constant": graph_layers.ElementwiseConstant,
    "tensor_function": graph_layers.TensorFunction,
    "simulated_quantization": graph_layers.SimulatedQuantization,
    "simulated_add": graph_layers.SimulatedAdd,
    "simulated_table": graph_layers.SimulatedTable,
    "simulated_softmax": graph_layers.SimulatedSoftmax,
}
"""Layer class of each kind; a node's attributes are its arguments."""

HIDDEN_LINEAR = "_linear"
"""Ends the name of a node whose activation was inside the same layer or operator."""

_ACTIVATIONS = (
    *("sigmoid", "tanh", "elu", "swish", "gelu", "exponential", "selu", "softplus", "softsign"),
    *("hard_sigmoid", "mish", "leaky_relu", "log_softmax"),
)
"""Functions of Keras that have no kind of their own."""
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

    def __post_init__(self):
        if self.kind not in KINDS and self.kind not in (IDENTITY, RESIZE, LAYER):
            raise ValueError(f"node {self.name!r}: unknown kind {self.kind!r}")
        # A string in JSON must not pick just any function that Keras can look up.
        if self.kind == "activation" and self.attributes.get("activation") not in _ACTIVATIONS:
            raise ValueError(
                f"node {self.name!r}: unknown activation {self.attributes.get('activation')!r}; "
                f"known: {', '.join(_ACTIVATIONS)}"
            )
        if self.kind == LAYER:
            stock_layer(self.attributes.get("class_name"), self.name)
            if found := foreign_part(self.attributes):
                raise ValueError(f"node {self.name!r}: holds {found}, which is no stock layer")


def stock_layer(class_name, node_name: str):
    """A class of `keras.layers` that runs no code of its configuration.

    Raises:
        ValueError: there is none of that name, or it does.
    """
    found = getattr(layers, str(class_name), None)
    layer = isinstance(found, type) and issubclass(found, layers.Layer)
    if not layer or class_name not in LAYERS - WRAPPERS:
        raise ValueError(f"node {node_name!r}: {class_name!r} is no stock layer of Keras")
    return found


@dataclasses.dataclass(frozen=True)
class NetworkDescription:
    """A network with one input and one output.

    Attributes:
        input_name: of the input layer.
        input_shape: without the batch; [height, width, channels] for images.
        nodes: in the order of execution.
        output_name: node whose value is the network's.

    Raises:
        ValueError: a name twice, or an input that no earlier node gives.
    """

    input_name: str
    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    output_name: str

    def __post_init__(self):
        known = {self.input_name}
        for node in self.nodes:
            if node.name in known:
                raise ValueError(f"two nodes are named {node.name!r}")
            if missing := [name for name in node.inputs if name not in known]:
                raise ValueError(f"node {node.name!r} reads {missing[0]!r}, which is not before it")
            known.add(node.name)
        if not self.nodes or self.output_name not in known - {self.input_name}:
            raise ValueError(f"output {self.output_name!r} is not a node of the network")

    def node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def consumers(self, name: str) -> list[Node]:
        """Nodes that read a value, in the order of execution."""
        return [node for node in self.nodes if name in node.inputs]

    def only_consumer(self, name: str) -> Node | None:
        """The node that alone reads a value; None where several do, or the output is that value."""
        found = self.consumers(name)
        return found[0] if len(found) == 1 and name != self.output_name else None

    def to_json(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict) -> "NetworkDescription":
        """Raises ValueError for a missing or unknown key."""
        try:
            nodes = tuple(
                Node(**{**node, "inputs": tuple(node["inputs"])}) for node in values["nodes"]
            )
            shape = tuple(values["input_shape"])
            return cls(**{**values, "nodes": nodes, "input_shape": shape})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the description of a network ({error})") from error

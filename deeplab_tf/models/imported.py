"""A network that came out of a file, as data: nodes in the order of execution.

Weights are not in it; they are "layer/weight" arrays beside it, as in any run folder. The data
is plain JSON, and building it runs nothing but the layers of the table `KINDS`.
"""

import dataclasses

import numpy as np
import tf_keras as keras

from deeplab_tf.models import imported_layers
from deeplab_tf.models.stock_layers import LAYERS, WRAPPERS, foreign_part

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
    "aligned_resizing": imported_layers.AlignedResizing,
    "hard_swish": imported_layers.HardSwish,
    "clip": imported_layers.Clip,
    "argmax": imported_layers.ArgMax,
    "cast": imported_layers.Cast,
    "reduce_mean": imported_layers.ReduceMean,
    "strided_slice": imported_layers.StridedSlice,
    "channel_limit": imported_layers.ChannelLimit,
    "elementwise_constant": imported_layers.ElementwiseConstant,
    "simulated_quantization": imported_layers.SimulatedQuantization,
    "simulated_add": imported_layers.SimulatedAdd,
    "simulated_table": imported_layers.SimulatedTable,
    "simulated_softmax": imported_layers.SimulatedSoftmax,
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
            _stock_layer(self.attributes.get("class_name"), self.name)
            if found := foreign_part(self.attributes):
                raise ValueError(f"node {self.name!r}: holds {found}, which is no stock layer")


def _stock_layer(class_name, node_name: str):
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


def build_imported(
    description: NetworkDescription, height: int | None = None, width: int | None = None
) -> keras.Model:
    """Builds the network with new weights, one flat Functional graph.

    Args:
        description: the network.
        height, width: input size; the file's own where left out.

    Returns:
        float32 [batch, *input_shape] -> what the file's output is, as float32 (an arg max:
        its integer type).

    Raises:
        ValueError: a node whose attributes do not fit its kind or its input, named.
    """
    shape = description.input_shape
    if height is not None or width is not None:
        if len(shape) != 3:
            raise ValueError(f"height and width need an image input; this one is {list(shape)}")
        shape = (height or shape[0], width or shape[1], shape[2])
    tensors = {description.input_name: keras.Input(shape, name=description.input_name)}
    for node in description.nodes:
        try:
            tensors[node.name] = _apply(node, tensors, shape != description.input_shape)
        except (TypeError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ValueError(f"node {node.name!r} ({node.kind}) cannot be built: {reason}") from (
                error
            )
    image, output = tensors[description.input_name], tensors[description.output_name]
    return keras.Model(image, output, name="imported")


def apply_node(node: Node, inputs: list, weights: dict[str, np.ndarray] | None = None):
    """One node on tensors at hand, at the file's own size.

    Args:
        node: which.
        inputs: what it reads.
        weights: {"kernel": ...} of its layer, by name; None where it has none.
    """
    value = inputs if len(inputs) > 1 else inputs[0]
    if node.kind == IDENTITY:
        return value
    if node.kind == RESIZE:
        return _resize(node, value, {}, False)
    layer = _layer_of(node)
    if weights:
        layer.build([one.shape for one in inputs] if len(inputs) > 1 else inputs[0].shape)
        names = [variable.name.split("/")[-1].split(":")[0] for variable in layer.weights]
        layer.set_weights([weights[name] for name in names])
    return layer(value)


def _layer_of(node: Node) -> keras.layers.Layer:
    if node.kind == LAYER:
        layer = _stock_layer(node.attributes["class_name"], node.name)
        return layer.from_config(node.attributes["config"] | {"name": node.name})
    return KINDS[node.kind](**node.attributes, name=node.name)


def _apply(node: Node, tensors: dict, other_size: bool):
    inputs = [tensors[name] for name in node.inputs]
    value = inputs if len(inputs) > 1 else inputs[0]
    if node.kind == IDENTITY:
        return value
    if node.kind == RESIZE:
        return _resize(node, value, tensors, other_size)
    return _layer_of(node)(value)


def _resize(node: Node, value, tensors: dict, other_size: bool):
    _, in_height, in_width, _ = value.shape
    settings = node.attributes
    height, width = settings["height"], settings["width"]
    if other_size and settings.get("like"):
        _, height, width, _ = tensors[settings["like"]].shape
    elif other_size:
        factor = _factor(node)
        height, width = round(in_height * factor[0]), round(in_width * factor[1])
    interpolation, alignment = settings["interpolation"], settings["alignment"]
    # From one pixel every convention gives the same, and so does nearest by whole factors.
    same = (in_height, in_width) == (1, 1) or (
        interpolation == "nearest"
        and alignment == "legacy"
        and height % in_height == 0
        and width % in_width == 0
    )
    if same or alignment == "half_pixel":
        return layers.Resizing(height, width, interpolation, name=node.name)(value)
    return imported_layers.AlignedResizing(height, width, interpolation, alignment, name=node.name)(
        value
    )


def _factor(node: Node) -> tuple[float, float]:
    factor = node.attributes.get("factor")
    if not factor:
        raise ValueError("has a fixed size; build the network at the file's own input size")
    return tuple(factor)


def cut_after(
    description: NetworkDescription, arrays: dict[str, np.ndarray], name: str
) -> tuple[NetworkDescription, dict[str, np.ndarray]]:
    """The network up to a node, with the arrays that it still needs.

    Raises:
        ValueError: no such node.
    """
    by_name = {node.name: node for node in description.nodes}
    if name not in by_name:
        raise ValueError(f"no node is named {name!r}; the last are {', '.join(list(by_name)[-8:])}")
    needed, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in needed or current not in by_name:
            continue
        needed.add(current)
        waiting += by_name[current].inputs
    nodes = [node for node in description.nodes if node.name in needed]
    kept = tuple(_without_lost_like(node, {*needed, description.input_name}) for node in nodes)
    shorter = dataclasses.replace(description, nodes=kept, output_name=name)
    return shorter, {k: v for k, v in arrays.items() if k.rpartition("/")[0] in needed}


def _without_lost_like(node: Node, kept: set[str]) -> Node:
    like = node.attributes.get("like")
    if node.kind != RESIZE or like is None or like in kept:
        return node
    return dataclasses.replace(node, attributes=node.attributes | {"like": None})


def last_convolution(description: NetworkDescription) -> Node:
    """The classifier: the last convolution or dense layer that the output comes through.

    Raises:
        ValueError: there is none.
    """
    reached, _ = cut_after(description, {}, description.output_name)
    for node in reversed(reached.nodes):
        if node.kind in (*CONVOLUTIONS, "dense"):
            return node
    raise ValueError("the network has no convolution and no dense layer")


def append_classifier(
    description: NetworkDescription, arrays: dict[str, np.ndarray], num_classes: int, seed: int = 0
) -> tuple[NetworkDescription, dict[str, np.ndarray]]:
    """Puts a new 1x1 convolution, or a dense layer behind a vector, at the network's end.

    Its kernel is drawn from a normal distribution with standard deviation 0.01, its bias is 0.

    Raises:
        ValueError: `num_classes` below 1, or an output that is neither features nor a vector.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1; got {num_classes}")
    shape = build_imported(description).output_shape
    if len(shape) not in (2, 4):
        raise ValueError(f"a classifier needs features or a vector in front; got {shape}")
    taken = {node.name for node in description.nodes} | {description.input_name}
    name = CLASSIFIER if CLASSIFIER not in taken else f"{CLASSIFIER}_new"
    if len(shape) == 4:
        kind, attributes = "conv2d", {"filters": num_classes, "kernel_size": 1}
        kernel_shape = (1, 1, shape[-1], num_classes)
    else:
        kind, attributes = "dense", {"units": num_classes}
        kernel_shape = (shape[-1], num_classes)
    node = Node(name, kind, (description.output_name,), attributes)
    kernel = np.random.default_rng(seed).normal(0, 0.01, kernel_shape).astype(np.float32)
    longer = dataclasses.replace(description, nodes=(*description.nodes, node), output_name=name)
    return longer, arrays | {
        f"{name}/kernel": kernel,
        f"{name}/bias": np.zeros(num_classes, np.float32),
    }


def insert_after(description: NetworkDescription, additions: dict[str, Node]) -> NetworkDescription:
    """Puts a node behind each named one; all that read the old node then read the new one.

    Args:
        description: the network.
        additions: {name of a node or of the input: node that reads it}.
    """
    renamed = {name: node.name for name, node in additions.items()}
    nodes = [additions[description.input_name]] if description.input_name in additions else []
    for node in description.nodes:
        inputs = tuple(renamed.get(name, name) for name in node.inputs)
        nodes.append(dataclasses.replace(node, inputs=inputs))
        if node.name in additions:
            nodes.append(additions[node.name])
    output = renamed.get(description.output_name, description.output_name)
    return dataclasses.replace(description, nodes=tuple(nodes), output_name=output)


_SUMS = (
    *CONVOLUTIONS,
    "dense",
    "multiply",
    "global_average_pool2d",
    "average_pool2d",
    "reduce_mean",
)


def simulate_quantization(
    description: NetworkDescription, ranges: dict[str, dict]
) -> NetworkDescription:
    """Rounds every tensor that has a range to its integer steps, as the integer file does.

    Layers that sum compute in float64, so that the integer sums can be found again.

    Args:
        description: the float network.
        ranges: by node name, {scale, zero_point, quantized_min, quantized_max} and, where
            known, accumulator: {accumulator_scale, multiplier} of a sum of products,
            addends: {input_scales, multipliers} of an add or subtract, table: what the kernel
            makes of each 8-bit value, or softmax: {input_scale, scale}.
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
                (name,),
                {key: values[key] for key in keys} | values.get("accumulator", {}),
            )
            for name, values in ranges.items()
            if name in names
        },
    )


def _exact(node: Node, ranges: dict[str, dict]) -> Node:
    """The node as it computes what an integer kernel computes."""
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

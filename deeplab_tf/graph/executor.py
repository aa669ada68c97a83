"""Runs a network node by node: the one machine under everything that looks at, or changes, values.

Values that no later node reads are freed batch by batch, so memory is bounded by the widest cut
of the network and not by its depth. The nodes are the layers of one Keras model, built once; a
run may also be traced by `tf.function`.
"""

import collections.abc
import functools

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.build import build_imported
from deeplab_tf.graph.network import IDENTITY, NetworkDescription, Node

Rounding = collections.abc.Mapping[str, collections.abc.Callable[[tf.Tensor], tf.Tensor]]
"""{node or input: what its value is replaced by before anything reads it}."""
QUANTIZED = "simulated_quantization"
"""Kind of a node whose values lie on an integer grid; `Run` can keep them as those integers."""


def quantize_activation(value, low: float, high: float):
    """A value rounded to 256 steps of a range that is moved so that 0 is one of them.

    Args:
        value: float32, any shape.
        low, high: ends of the range; where they are equal nothing is rounded.
    """
    if high <= low:
        return value
    return tf.quantization.fake_quant_with_min_max_args(value, low, high)


def rounding_of(ranges: dict[str, tuple[float, float]]) -> Rounding:
    """Rounds to 8 bits every tensor that has a range.

    Args:
        ranges: {node or input: (min, max)}.
    """
    return {
        name: functools.partial(quantize_activation, low=low, high=high)
        for name, (low, high) in ranges.items()
    }


class Executor:
    """A network with weights, ready to be run.

    Attributes:
        network: the graph.
        model: the Keras model whose layers compute its nodes.
    """

    def __init__(
        self,
        network: NetworkDescription,
        arrays: collections.abc.Mapping[str, np.ndarray],
        *,
        size: tuple[int, int] | None = None,
        rounding: Rounding | None = None,
    ):
        """Args:
            network: the graph.
            arrays: its "layer/weight" arrays; others are not looked at.
            size: (height, width) of the input; None for the network's own.
            rounding: tensors that are rounded.

        Raises:
            ValueError: an array that is missing or has another shape.
        """
        self.network = network
        self.model = build_imported(network, size)
        for layer in self.model.layers:
            layer.set_weights(
                [_array_of(layer, variable, arrays=arrays) for variable in layer.weights]
            )
        self._rounding = rounding or {}

    def weight(self, key: str) -> tf.Variable:
        """The variable of "layer/weight".

        Raises:
            KeyError: there is none.
        """
        name, _, short = key.rpartition("/")
        for variable in self.model.get_layer(name).weights:
            if _short_name(variable) == short:
                return variable
        raise KeyError(key)

    def set_weight(self, key: str, value) -> None:
        """Changes "layer/weight" for all nodes that are computed from now on."""
        self.weight(key).assign(value)

    def compute(self, node: Node, inputs: list):
        """A node on values at hand, not rounded."""
        value = inputs if len(inputs) > 1 else inputs[0]
        return value if node.kind == IDENTITY else self.model.get_layer(node.name)(value)

    def round(self, name: str, value):
        """A value as everything behind it reads it."""
        return self._rounding[name](value) if name in self._rounding else value

    def start(
        self,
        batches: collections.abc.Sequence,
        *,
        keep: collections.abc.Callable[[Node], bool] | None = None,
        hold: collections.abc.Collection[str] = (),
    ) -> "Run":
        """A run over batches that has computed nothing yet, see `Run`."""
        return Run(self, batches, keep=keep, hold=hold)

    def run(
        self,
        image,
        after: collections.abc.Callable[[Node, tf.Tensor], tf.Tensor | None] | None = None,
    ):
        """Computes the whole network for one batch.

        Args:
            image: float32 [batch, *input_shape].
            after: called with every node and its value in the order of execution, before the
                value is rounded; what it returns takes the value's place, None leaves it.

        Returns:
            the output's value.
        """
        run = self.start([image])
        for node in self.network.nodes:
            run.step(node, None if after is None else functools.partial(_first, after, node))
        (output,) = run.values(self.network.output_name)
        return output


def _first(after, node: Node, values: list) -> list:
    replaced = after(node, values[0])
    return values if replaced is None else [replaced]


class Run:
    """A network in the middle of being computed, over all batches, node after node.

    Two runs can go side by side, weights can change between two nodes, and a value can be asked
    for before its node is passed: it is then computed and forgotten.
    """

    def __init__(
        self,
        executor: Executor,
        batches: collections.abc.Sequence,
        *,
        keep: collections.abc.Callable[[Node], bool] | None = None,
        hold: collections.abc.Collection[str] = (),
    ):
        """Args:
        executor: of the network.
        batches: float32 [batch, *input_shape] each.
        keep: which nodes' values are held in memory until their last reader is computed, as
            integers where they lie on an integer grid. The others are computed again for
            each reader. None holds every one as it is.
        hold: nodes whose values are never freed; the output's is not, either.
        """
        self._executor = executor
        self._nodes = {node.name: node for node in executor.network.nodes}
        self._keep, self._hold = keep, {*hold, executor.network.output_name}
        image = executor.network.input_name
        self.batches = len(batches)
        self._values: dict[str, list] = {
            image: [executor.round(image, tf.convert_to_tensor(batch)) for batch in batches]
        }
        self._freed: set[str] = set()
        self._last_use = self._last_uses()

    def values(self, name: str) -> list:
        """What a node or the input gives, one value a batch."""
        return [self.value(name, index) for index in range(self.batches)]

    def value(self, name: str, batch: int):
        """The same for one batch.

        Raises:
            KeyError: it was freed: every reader is computed already.
        """
        if name in self._values:
            return _unpacked(self._nodes.get(name), self._values[name][batch])
        if name in self._freed:
            raise KeyError(name)
        return self._executor.round(name, self._computed(self._nodes[name], batch))

    def step(
        self, node: Node, adjust: collections.abc.Callable[[list], list] | None = None
    ) -> None:
        """Passes a node; all nodes in front of it must have been passed.

        Args:
            node: the next one.
            adjust: gets its values, one a batch, before they are rounded, and returns those that
                take their place. The node is then held until it is read.
        """
        done = [name for name in self._values if self._last_use.get(name) == node.name]
        if adjust is not None:
            values = adjust([self._computed(node, index) for index in range(self.batches)])
            self._values[node.name] = [self._stored(node, value) for value in values]
        elif self._kept(node):
            self._values[node.name] = []
            for index in range(self.batches):
                self._values[node.name].append(self._stored(node, self._computed(node, index)))
                for name in done:  # one batch of a wide value beside the next is enough
                    self._values[name][index] = None
        for name in done:
            del self._values[name]
        self._freed.update(done)

    def _kept(self, node: Node) -> bool:
        return self._keep is None or node.name in self._hold or self._keep(node)

    def _computed(self, node: Node, batch: int):
        return self._executor.compute(node, [self.value(name, batch) for name in node.inputs])

    def _stored(self, node: Node, value):
        value = self._executor.round(node.name, value)
        return value if self._keep is None else _packed(node, value)

    def _last_uses(self) -> dict[str, str]:
        """{value: node after which nobody needs it}, directly or by computing again."""
        order = {name: place for place, name in enumerate(self._nodes)}
        uses: dict[str, str] = {}
        for node in reversed(self._nodes.values()):
            needed = node.name if self._kept(node) else uses.get(node.name, node.name)
            for name in node.inputs:
                if name not in uses or order[uses[name]] < order[needed]:
                    uses[name] = needed
        return {name: last for name, last in uses.items() if name not in self._hold}


def _packed(node: Node, value):
    """The integers of a value that lies on an integer grid; any other value as it is."""
    if node.kind != QUANTIZED:
        return value
    settings = node.attributes
    steps = np.rint(np.asarray(value) / np.float32(settings["scale"])) + settings["zero_point"]
    return steps.astype(np.min_scalar_type(settings["quantized_min"] or 255))


def _unpacked(node: Node | None, stored):
    if node is None or node.kind != QUANTIZED or not isinstance(stored, np.ndarray):
        return stored
    settings = node.attributes
    return np.float32(settings["scale"]) * (
        stored.astype(np.float32) - np.float32(settings["zero_point"])
    )


def _short_name(variable) -> str:
    """ "kernel" for "block_1_expand/kernel:0"."""
    return variable.name.split("/")[-1].split(":")[0]


def _array_of(layer: keras.layers.Layer, variable, *, arrays) -> np.ndarray:
    key = f"{layer.name}/{_short_name(variable)}"
    value = arrays.get(key)
    if value is None or value.shape != tuple(variable.shape):
        found = "none" if value is None else f"shape {value.shape}"
        raise ValueError(f"{key}: expected shape {tuple(variable.shape)}, got {found}")
    return value

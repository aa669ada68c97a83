"""Runs a network node by node; everything that reads or changes intermediate values uses it.

Values that no later node reads are freed batch by batch, so memory is bounded by the widest cut
of the network and not by its depth. The nodes are the layers of one Keras model, built once; a
run may also be traced by `tf.function`.
"""

import collections.abc
import copy
import functools
import itertools
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.network import IDENTITY, NetworkGraph, Node

Rounding = collections.abc.Mapping[str, collections.abc.Callable[[tf.Tensor], tf.Tensor]]
"""{node or input: function that is applied to its value before other nodes read it}."""
Adjustment = collections.abc.Callable[[Node, tf.Tensor], tf.Tensor | None]
"""Called with a node and its value; what it returns replaces the value, None leaves it."""
QUANTIZED = "simulated_quantization"
"""Kind of a node whose values lie on an integer grid; `Run` can keep them as those integers."""


def quantize_activation(value: tf.Tensor, low: float, high: float) -> tf.Tensor:
    """Rounds a value to 256 steps of a range that is shifted so that 0 is one of them.

    Args:
        value: float32, any shape.
        low: smallest value of the range.
        high: largest value of the range; where it is not above `low` nothing is rounded.

    Returns:
        float32 of the same shape.
    """
    if high <= low:
        return value
    return tf.quantization.fake_quant_with_min_max_args(value, low, high)


def rounding_of(ranges: dict[str, tuple[float, float]]) -> Rounding:
    """Returns the rounding to 8 bits of every tensor that has a range.

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
        network: NetworkGraph,
        arrays: collections.abc.Mapping[str, np.ndarray],
        *,
        size: tuple[int, int] | None = None,
        rounding: Rounding | None = None,
    ) -> None:
        """Builds the model and sets its weights.

        Args:
            network: the graph.
            arrays: its "layer/weight" arrays; others are ignored.
            size: (height, width) of the input; None: the network's own.
            rounding: the tensors to round, and how.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        self.network = network
        self.model = build_model(network, size, all_outputs=True)
        for layer in self.model.layers:
            _set_weights(layer, arrays)
        self._rounding = rounding or {}

    def rounded(self, rounding: Rounding) -> "Executor":
        """Returns an executor of the same layers and weights that rounds other tensors.

        Building the layers takes longer than running them on a few images. A weight that is set
        in one of the two changes in both.

        Args:
            rounding: the tensors to round, and how.
        """
        other = copy.copy(self)
        other._rounding = rounding
        return other

    def weight(self, key: str) -> tf.Variable:
        """Returns a weight's variable.

        Args:
            key: "layer/weight".

        Raises:
            KeyError: there is none.
        """
        name, _, short = key.rpartition("/")
        for variable in self.model.get_layer(name).weights:
            if _short_name(variable) == short:
                return variable
        raise KeyError(key)

    def set_weight(self, key: str, value: np.ndarray | tf.Tensor) -> None:
        """Changes a weight for all nodes that are computed from now on.

        Args:
            key: "layer/weight".
            value: its new value, same shape.
        """
        self.weight(key).assign(value)

    def set_weights_of(self, node: Node, arrays: collections.abc.Mapping[str, np.ndarray]) -> None:
        """Changes all weights of a node, for all nodes that are computed from now on.

        Args:
            node: the node.
            arrays: its "layer/weight" arrays; others are ignored.

        Raises:
            ValueError: an array is missing or has another shape.
        """
        if node.kind != IDENTITY:
            _set_weights(self.model.get_layer(node.name), arrays)

    def compute(self, node: Node, inputs: list[tf.Tensor]) -> tf.Tensor:
        """Computes a node from its inputs, without rounding.

        Args:
            node: the node.
            inputs: the values that it reads, in the order of `node.inputs`.
        """
        value = inputs if len(inputs) > 1 else inputs[0]
        return value if node.kind == IDENTITY else self.model.get_layer(node.name)(value)

    def round(self, name: str, value: tf.Tensor) -> tf.Tensor:
        """Rounds a value as the nodes that read it receive it.

        Args:
            name: its node or input.
            value: the value before rounding.
        """
        return self._rounding[name](value) if name in self._rounding else value

    def start(
        self,
        batches: collections.abc.Sequence,
        *,
        keep: collections.abc.Callable[[Node], bool] | None = None,
        hold: collections.abc.Collection[str] = (),
    ) -> "Run":
        """Starts a run over batches, which has computed nothing yet.

        Args:
            batches: float32 [batch, *input_shape] each.
            keep: which nodes' values are kept in memory, see `Run`.
            hold: nodes whose values are never freed.
        """
        return Run(self, batches, keep=keep, hold=hold)

    def run(self, image: np.ndarray | tf.Tensor, after: Adjustment | None = None) -> tf.Tensor:
        """Computes the whole network for one batch.

        Args:
            image: float32 [batch, *input_shape].
            after: called with every node and its value in the order of execution, before the
                value is rounded; what it returns replaces the value, None leaves it.

        Returns:
            The value of the output.
        """
        run = self.start([image])
        for node in self.network.nodes:
            run.step(node, None if after is None else functools.partial(_first, after, node))
        (output,) = run.values(self.network.output_name)
        return output


def _first(after: Adjustment, node: Node, values: list[tf.Tensor]) -> list[tf.Tensor]:
    """Applies an adjustment to the values of a run that has one batch."""
    replaced = after(node, values[0])
    return values if replaced is None else [replaced]


class Run:
    """A computation of a network over all batches, one node at a time.

    Several runs can exist at the same time, and weights can change between two nodes. A value
    can be requested before its node is passed: it is then computed and not kept.

    Attributes:
        batches: the number of batches.
    """

    def __init__(
        self,
        executor: Executor,
        batches: collections.abc.Sequence,
        *,
        keep: collections.abc.Callable[[Node], bool] | None = None,
        hold: collections.abc.Collection[str] = (),
    ) -> None:
        """Stores the batches as the values of the input.

        Args:
            executor: of the network.
            batches: float32 [batch, *input_shape] each.
            keep: which nodes' values are kept in memory until their last reader is computed, as
                integers where they lie on an integer grid. The others are computed again for
                each reader. None keeps every value as it is.
            hold: nodes whose values are never freed; the output's value never is.
        """
        self._executor = executor
        self._nodes = {node.name: node for node in executor.network.nodes}
        self._keep, self._hold = keep, {*hold, *executor.network.outputs}
        image = executor.network.input_name
        self.batches = len(batches)
        self._values: dict[str, list] = {
            image: [executor.round(image, tf.convert_to_tensor(batch)) for batch in batches]
        }
        self._freed: set[str] = set()
        self._last_use = self._last_uses()

    def values(self, name: str) -> list[Any]:
        """Returns the value of a node or the input for every batch.

        Args:
            name: the node or the input.
        """
        return [self.value(name, index) for index in range(self.batches)]

    def value(self, name: str, batch: int) -> Any:
        """Returns the value of a node or the input for one batch.

        Args:
            name: the node or the input.
            batch: index of the batch.

        Returns:
            A tensor, or a float32 array where the value was kept as integers.

        Raises:
            KeyError: the value was freed, because every reader is computed already.
        """
        if name in self._values:
            return _unpacked(self._nodes.get(name), self._values[name][batch])
        if name in self._freed:
            raise KeyError(name)
        return self._executor.round(name, self._computed(self._nodes[name], batch))

    def step(
        self, node: Node, adjust: collections.abc.Callable[[list], list] | None = None
    ) -> None:
        """Passes a node; all nodes before it must have been passed.

        Args:
            node: the next node.
            adjust: receives its values, one per batch, before they are rounded, and returns the
                values that replace them. They are then kept until they are read.
        """
        done = [name for name in self._values if self._last_use.get(name) == node.name]
        if adjust is not None:
            values = adjust([self._computed(node, index) for index in range(self.batches)])
            self._values[node.name] = [self._stored(node, value) for value in values]
        elif self._kept(node):
            self._values[node.name] = []
            for index in range(self.batches):
                self._values[node.name].append(self._stored(node, self._computed(node, index)))
                for name in done:  # frees each batch before the next one is computed
                    self._values[name][index] = None
        for name in done:
            del self._values[name]
        self._freed.update(done)

    def _kept(self, node: Node) -> bool:
        return self._keep is None or node.name in self._hold or self._keep(node)

    def _computed(self, node: Node, batch: int) -> tf.Tensor:
        return self._executor.compute(node, [self.value(name, batch) for name in node.inputs])

    def _stored(self, node: Node, value: tf.Tensor) -> tf.Tensor | np.ndarray:
        value = self._executor.round(node.name, value)
        return value if self._keep is None else _packed(node, value)

    def _last_uses(self) -> dict[str, str]:
        """Returns {value: node after which nothing needs it, directly or by computing again}."""
        order = {name: place for place, name in enumerate(self._nodes)}
        uses: dict[str, str] = {}
        for node in reversed(self._nodes.values()):
            needed = node.name if self._kept(node) else uses.get(node.name, node.name)
            for name in node.inputs:
                if name not in uses or order[uses[name]] < order[needed]:
                    uses[name] = needed
        for name, following in itertools.pairwise(self._nodes):
            uses.setdefault(name, following)  # nothing reads it: one step long it can be asked for
        return {name: last for name, last in uses.items() if name not in self._hold}


def _packed(node: Node, value: tf.Tensor) -> tf.Tensor | np.ndarray:
    """Returns the integers of a value on an integer grid; any other value as it is."""
    if node.kind != QUANTIZED:
        return value
    settings = node.attributes
    steps = np.rint(np.asarray(value) / np.float32(settings["scale"])) + settings["zero_point"]
    return steps.astype(np.min_scalar_type(settings["quantized_min"] or 255))


def _unpacked(node: Node | None, stored: Any) -> Any:
    if node is None or node.kind != QUANTIZED or not isinstance(stored, np.ndarray):
        return stored
    settings = node.attributes
    return np.float32(settings["scale"]) * (
        stored.astype(np.float32) - np.float32(settings["zero_point"])
    )


def _short_name(variable: tf.Variable) -> str:
    """Returns the last part of a variable's name: "kernel" for "block_1_expand/kernel:0"."""
    return variable.name.split("/")[-1].split(":")[0]


def _set_weights(
    layer: keras.layers.Layer, arrays: collections.abc.Mapping[str, np.ndarray]
) -> None:
    layer.set_weights([_array_of(layer, variable, arrays=arrays) for variable in layer.weights])


def _array_of(
    layer: keras.layers.Layer,
    variable: tf.Variable,
    *,
    arrays: collections.abc.Mapping[str, np.ndarray],
) -> np.ndarray:
    key = f"{layer.name}/{_short_name(variable)}"
    value = arrays.get(key)
    if value is None or value.shape != tuple(variable.shape):
        found = "none" if value is None else f"shape {value.shape}"
        raise ValueError(f"{key}: expected shape {tuple(variable.shape)}, got {found}")
    return value

"""Sensitivity of a network to the quantization of each layer.

Each layer is scored as the only integer layer and as the only float layer. This is a simulation in
one graph, in which fake-quantizers are switched on and off: fast enough to try every layer. Its
result is a ranking; final scores must be measured on real files.
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.executor import Executor, quantize_activation
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import HIDDEN_LINEAR, NetworkGraph
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.signal_to_noise import snr_db
from deeplab_tf.quantization.ptq.bias_correction import quantize_kernel
from deeplab_tf.quantization.qat import scheme


@dataclasses.dataclass(frozen=True)
class Unit:
    """Nodes that become integer together: a kernel, its activation and their common range.

    Attributes:
        name: of the Keras layer with the kernel, or of a layer that has only a range (an addition).
        layers: names of all nodes, the one with the kernel first. The convolution of a layer with
            a built-in activation is the node "<name>_linear".
        weights: number of weights of the kernel.
    """

    name: str
    layers: tuple[str, ...]
    weights: int


@dataclasses.dataclass(frozen=True)
class Score:
    """Scores of a partly quantized network, with the float network as reference.

    Attributes:
        miou: fraction, over the classes of the labels, which are the same for all scores.
        snr_db: of the logits, 10 log10(sum float^2 / sum (float - this)^2).
    """

    miou: float
    snr_db: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """Ranking of the layers of a network by sensitivity.

    Attributes:
        units: most sensitive first: lowest signal-to-noise ratio as the only integer unit.
        only_integer: score with only this unit integer, in the order of `units`.
        only_float: score with only this unit float, in the order of `units`.
        all_float: score of the float network.
        all_integer: score with all units integer.
        images: number of scored images.
    """

    units: tuple[Unit, ...]
    only_integer: tuple[Score, ...]
    only_float: tuple[Score, ...]
    all_float: Score
    all_integer: Score
    images: int


def find_units(description: NetworkGraph, arrays: dict[str, np.ndarray]) -> list[Unit]:
    """Finds the units of a network, in the order of execution.

    A layer that the quantization scheme does not know belongs to no unit.

    Args:
        description: a network without batch norms.
        arrays: its weights.

    Returns:
        The units.
    """
    plans = scheme.plan_layers(build_model(description, all_outputs=True))
    nodes = {node.name: node for node in description.nodes}
    units: list[Unit] = []
    taken: set[str] = set()
    for name, node in nodes.items():
        plan = plans.get(name)
        if plan is None or name in taken or not (plan.weights or plan.output):
            continue
        layers, last = [name], name
        while last not in plans or not plans[last].output:
            follower = description.only_consumer(last)
            if follower is None or follower.kind not in ("relu", "identity"):
                break
            last = follower.name
            if last in plans:  # no layer is built for an identity
                layers.append(last)
        taken.update(layers)
        weights = arrays[kernel_key(node)].size if plan.weights else 0
        units.append(Unit(_keras_name(layers), tuple(layers), weights=weights))
    return units


def _keras_name(nodes: list[str]) -> str:
    """Returns the name of the layer that `graph_from_keras` split, else of the first node."""
    split = nodes[0].removesuffix(HIDDEN_LINEAR)
    return split if split in nodes else nodes[0]


def units_named(units: Sequence[Unit], names: Sequence[str]) -> list[Unit]:
    """Looks up units by name.

    Args:
        units: all units.
        names: names of units or of any of their nodes.

    Returns:
        The unit of each name.

    Raises:
        ValueError: an unknown name; the message suggests similar ones.
    """
    of_node = {node: unit for unit in units for node in unit.layers}
    for name in names:
        if name not in of_node:
            known = [unit.name for unit in units]
            similar = difflib.get_close_matches(name, known, 3, 0.4) or known[:3]
            raise ValueError(
                f"the integer network has no separate layer {name!r}; "
                f"similar names: {', '.join(similar)}"
            )
    return [of_node[name] for name in names]


class SwitchedNetwork:
    """A float network whose units can be switched between integer and float.

    Attributes:
        units: in the order of execution.
        executor: computes the network.
    """

    def __init__(
        self,
        description: NetworkGraph,
        arrays: dict[str, np.ndarray],
        *,
        ranges: dict[str, tuple[float, float]],
        per_channel: bool = True,
    ) -> None:
        """Builds the network with all units float.

        Args:
            description: a network without batch norms.
            arrays: its weights.
            ranges: {layer: (min, max)} of the activations that `scheme.plan_layers` selects.
            per_channel: whether weights have one scale per channel or one per kernel.
        """
        self.units = find_units(description, arrays)
        self._on = {
            name: tf.Variable(False, trainable=False)
            for unit in self.units
            for name in unit.layers
            if name in ranges
        }
        self.executor = Executor(
            description,
            arrays,
            rounding={name: _switched(on, ranges[name]) for name, on in self._on.items()},
        )
        self._kernels = {
            node.name: (
                node,
                arrays[kernel_key(node)],
                quantize_kernel(node, arrays[kernel_key(node)], per_channel=per_channel),
            )
            for node in description.nodes
            if node.kind in WITH_KERNEL
        }
        self._integer: set[str] = set()
        self._readers = _readers(description, self.units)

    def set_integer(self, names: set[str]) -> None:
        """Makes exactly the named units integer.

        As in a file, the output of a float unit is rounded if an integer unit reads it.

        Args:
            names: of the integer units; all others become float.
        """
        for unit in self.units:
            integer = unit.name in names
            rounded = integer or any(reader in names for reader in self._readers[unit.name])
            for name in unit.layers:
                if name in self._on:
                    self._on[name].assign(rounded)
            first = unit.layers[0]
            if first in self._kernels and integer != (unit.name in self._integer):
                node, float_kernel, integer_kernel = self._kernels[first]
                kernel = integer_kernel if integer else float_kernel
                self.executor.set_weight(kernel_key(node), kernel)
        self._integer = set(names)


def _switched(on: tf.Variable, ends: tuple[float, float]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Returns a function that rounds to a range while a variable is True."""
    low, high = ends

    def rounded(value: tf.Tensor) -> tf.Tensor:
        return tf.cond(on, lambda: quantize_activation(value, low, high=high), lambda: value)

    return rounded


def _readers(description: NetworkGraph, units: list[Unit]) -> dict[str, set[str]]:
    """Returns {unit: units that read its output}, also through nodes without their own range."""
    unit_of = {layer: unit.name for unit in units for layer in unit.layers}

    def readers(name: str) -> set[str]:
        found: set[str] = set()
        for node in description.consumers(name):
            found |= {unit_of[node.name]} if node.name in unit_of else readers(node.name)
        return found

    return {unit.name: readers(unit.layers[-1]) for unit in units}


class NetworkScorer:
    """Scores a switched network on labelled images.

    Args:
        network: all of its units become float.
        images: float32 [count, height, width, channels], normalized.
        labels: uint8 [count, height, width], 255 = ignored.
        num_classes: number of classes.
        alignment: convention by which logits are resized.
    """

    def __init__(
        self,
        network: SwitchedNetwork,
        images: np.ndarray,
        *,
        labels: np.ndarray,
        num_classes: int,
        alignment: Alignment = Alignment.HALF_PIXEL,
    ) -> None:
        self._network, self._images, self._labels = network, images, labels
        self._num_classes = num_classes
        height, width = labels.shape[1:]

        @tf.function
        def predict(image: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            logits = network.executor.run(image)
            full = resize_bilinear(logits, (height, width), alignment=alignment)
            return logits, tf.argmax(full, -1, output_type=tf.int32)

        self._predict = predict
        network.set_integer(set())
        self._float_logits = [predict(image[None])[0].numpy() for image in images]

    def score(self, integer: set[str]) -> Score:
        """Scores the network with exactly the named units integer.

        Args:
            integer: names of the units.

        Returns:
            The score over all images.
        """
        self._network.set_integer(integer)
        matrix = np.zeros((self._num_classes, self._num_classes + 1), np.int64)
        signal = noise = 0.0
        samples = zip(self._images, self._labels, self._float_logits, strict=True)
        for image, label, float_logits in samples:
            logits, classes = self._predict(image[None])
            signal += float(np.square(float_logits, dtype=np.float64).sum())
            noise += float(np.square(float_logits - logits.numpy(), dtype=np.float64).sum())
            matrix += confusion.confusion_matrix(
                label[None], classes.numpy(), num_classes=self._num_classes
            )
        return Score(confusion.mean_true_iou(matrix), snr_db(signal, noise))


def measure_sensitivity(
    units: Sequence[Unit],
    scorer: NetworkScorer,
    *,
    images: int,
    progress: Callable[[str], None] | None = None,
) -> Sensitivity:
    """Scores every unit as the only integer unit and as the only float unit.

    Args:
        units: all units of the network.
        scorer: scores the network.
        images: number of images that it scores, for the report.
        progress: called with the name of each finished unit.

    Returns:
        The ranking.
    """
    names = {unit.name for unit in units}
    scores = []
    for unit in units:
        scores.append((unit, scorer.score({unit.name}), scorer.score(names - {unit.name})))
        if progress is not None:
            progress(unit.name)
    scores.sort(key=lambda row: row[1].snr_db)
    ranked, only_integer, only_float = (tuple(column) for column in zip(*scores, strict=True))
    return Sensitivity(
        ranked,
        only_integer,
        only_float=only_float,
        all_float=scorer.score(set()),
        all_integer=scorer.score(names),
        images=images,
    )


def choose_float_units(
    sensitivity: Sensitivity, scorer: NetworkScorer, *, budget: float
) -> tuple[tuple[str, ...], Score]:
    """Finds the fewest most sensitive units to keep float for an mIoU close to the float network's.

    Bisection over the number of units, assuming that more float units are not worse.

    Args:
        sensitivity: the ranking.
        scorer: scores the network.
        budget: mIoU that may be lost, as a fraction.

    Returns:
        The names, most sensitive first, and the score with these units float. All names if even
        then rounding exceeds the budget.

    Raises:
        ValueError: a negative budget.
    """
    if budget < 0:
        raise ValueError(f"the mIoU budget must not be negative; got {budget}")
    names = [unit.name for unit in sensitivity.units]
    required = sensitivity.all_float.miou - budget
    low, high = 0, len(names)
    found = sensitivity.all_float
    while low < high:
        middle = (low + high) // 2
        score = scorer.score(set(names[middle:]))
        if score.miou >= required:
            high, found = middle, score
        else:
            low = middle + 1
    return tuple(names[:high]), found

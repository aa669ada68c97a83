"""What each layer costs when it is integer: one layer integer alone, one layer float alone.

A simulation with fake-quantizers that are switched on and off, layer by layer, in one graph:
fast enough to try every layer. What it finds is a ranking; scores come from real files.
"""

import dataclasses
import difflib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.graph.build import build_imported
from deeplab_tf.graph.executor import Executor, quantize_activation
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import HIDDEN_LINEAR, NetworkDescription
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics import confusion
from deeplab_tf.metrics.signal_to_noise import snr_db
from deeplab_tf.quantization.ptq.bias_correction import quantize_kernel
from deeplab_tf.quantization.qat import scheme


@dataclasses.dataclass(frozen=True)
class Unit:
    """What becomes integer together: a kernel, the activation behind it and their one range.

    Attributes:
        name: of the Keras layer with the kernel, or of one that has a range alone (an addition).
        layers: all of its nodes, the one with the kernel first. The convolution of a layer with
            an activation inside is the node "<name>_linear".
        weights: of the kernel.
    """

    name: str
    layers: tuple[str, ...]
    weights: int


@dataclasses.dataclass(frozen=True)
class Score:
    """A network against its float self.

    Attributes:
        miou: fraction, over the classes that the labels hold: the same for all that is scored.
        snr_db: of the logits, 10 log10(sum float^2 / sum (float - this)^2).
    """

    miou: float
    snr_db: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The layers of a network by what they cost.

    Attributes:
        units: most costly first: lowest signal-to-noise ratio when it alone is integer.
        only_integer: score of each with everything else float, in the order of `units`.
        only_float: score of each with everything else integer.
        all_float, all_integer: the two ends.
        images: photos that were scored.
    """

    units: tuple[Unit, ...]
    only_integer: tuple[Score, ...]
    only_float: tuple[Score, ...]
    all_float: Score
    all_integer: Score
    images: int


def find_units(description: NetworkDescription, arrays: dict[str, np.ndarray]) -> list[Unit]:
    """The units of a network without batch norms, in the order of execution.

    A layer that the quantization scheme does not know is in none.
    """
    plans = scheme.plan_layers(build_imported(description))
    nodes = {node.name: node for node in description.nodes}
    units, taken = [], set()
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
            if last in plans:  # nothing is built for an identity
                layers.append(last)
        taken.update(layers)
        weights = arrays[kernel_key(node)].size if plan.weights else 0
        units.append(Unit(_keras_name(layers), tuple(layers), weights=weights))
    return units


def _keras_name(nodes: list[str]) -> str:
    """Of the layer that `describe` made two nodes of; else of the first node."""
    split = nodes[0].removesuffix(HIDDEN_LINEAR)
    return split if split in nodes else nodes[0]


def units_named(units: Sequence[Unit], names: Sequence[str]) -> list[Unit]:
    """The unit of each name: its own, or that of any of its nodes.

    Raises:
        ValueError: a name that no unit has, with those nearest to it.
    """
    of_node = {node: unit for unit in units for node in unit.layers}
    for name in names:
        if name not in of_node:
            known = [unit.name for unit in units]
            near = difflib.get_close_matches(name, known, 3, 0.4) or known[:3]
            raise ValueError(
                f"no layer {name!r} computes on its own in the integer network; "
                f"near: {', '.join(near)}"
            )
    return [of_node[name] for name in names]


class SwitchedNetwork:
    """A float network, any of whose units can be made integer and float again.

    Attributes:
        units: in the order of execution.
        executor: that computes it.
    """

    def __init__(
        self,
        description: NetworkDescription,
        arrays: dict[str, np.ndarray],
        *,
        ranges: dict[str, tuple[float, float]],
        per_channel: bool = True,
    ) -> None:
        """Args:
        description, arrays: a network without batch norms.
        ranges: {layer: (min, max)} of its activations (`scheme.plan_layers` says which).
        per_channel: one weight scale a channel, or one a kernel.
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

        As in a file, what a float unit gives is rounded where an integer one reads it.
        """
        for unit in self.units:
            wanted = unit.name in names
            rounded = wanted or any(reader in names for reader in self._readers[unit.name])
            for name in unit.layers:
                if name in self._on:
                    self._on[name].assign(rounded)
            first = unit.layers[0]
            if first in self._kernels and wanted != (unit.name in self._integer):
                node, *kernels = self._kernels[first]
                self.executor.set_weight(kernel_key(node), kernels[wanted])
        self._integer = set(names)


def _switched(on: tf.Variable, ends: tuple[float, float]):
    """Rounds to a range while a variable is True."""
    low, high = ends

    def rounded(value):
        return tf.cond(on, lambda: quantize_activation(value, low, high=high), lambda: value)

    return rounded


def _readers(description: NetworkDescription, units: list[Unit]) -> dict[str, set[str]]:
    """{unit: units that read what it gives}, looking through what has no range of its own."""
    unit_of = {layer: unit.name for unit in units for layer in unit.layers}

    def behind(name: str) -> set[str]:
        found: set[str] = set()
        for node in description.consumers(name):
            found |= {unit_of[node.name]} if node.name in unit_of else behind(node.name)
        return found

    return {unit.name: behind(unit.layers[-1]) for unit in units}


class NetworkScorer:
    """Scores a switched network on photos with labels.

    Args:
        network: starts all float.
        images: float32 [count, height, width, channels], normalized.
        labels: uint8 [count, height, width], 255 = ignored.
        num_classes: of the labels.
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
        def predict(image):
            logits = network.executor.run(image)
            full = resize_bilinear(logits, (height, width), alignment=alignment)
            return logits, tf.argmax(full, -1, output_type=tf.int32)

        self._predict = predict
        network.set_integer(set())
        self._wanted = [predict(image[None])[0].numpy() for image in images]

    def score(self, integer: set[str]) -> Score:
        """Of the network with exactly these units integer."""
        self._network.set_integer(integer)
        matrix = np.zeros((self._num_classes, self._num_classes + 1), np.int64)
        signal = noise = 0.0
        for image, label, wanted in zip(self._images, self._labels, self._wanted, strict=True):
            logits, classes = self._predict(image[None])
            signal += float(np.square(wanted, dtype=np.float64).sum())
            noise += float(np.square(wanted - logits.numpy(), dtype=np.float64).sum())
            matrix += confusion.confusion_matrix(
                label[None], classes.numpy(), num_classes=self._num_classes
            )
        return Score(confusion.mean_true_iou(matrix), snr_db(signal, noise))


def measure_sensitivity(
    units: Sequence[Unit],
    judge: NetworkScorer,
    *,
    images: int,
    progress: Callable[[str], None] | None = None,
) -> Sensitivity:
    """Scores every unit integer alone and float alone.

    Args:
        units: of the judged network.
        judge: that scores.
        images: how many photos it scores.
        progress: called with the name of each unit that is done.
    """
    names = {unit.name for unit in units}
    scores = []
    for unit in units:
        scores.append((unit, judge.score({unit.name}), judge.score(names - {unit.name})))
        if progress is not None:
            progress(unit.name)
    scores.sort(key=lambda row: row[1].snr_db)
    ranked, only_integer, only_float = (tuple(column) for column in zip(*scores, strict=True))
    return Sensitivity(
        ranked,
        only_integer,
        only_float=only_float,
        all_float=judge.score(set()),
        all_integer=judge.score(names),
        images=images,
    )


def choose_float_units(
    sensitivity: Sensitivity, judge: NetworkScorer, *, budget: float
) -> tuple[tuple[str, ...], Score]:
    """The shortest head of the ranking that, kept float, brings mIoU within a budget of float's.

    Bisection over the length: it takes for granted that a longer head is not worse.

    Args:
        sensitivity: the ranking.
        judge: that made it.
        budget: mIoU that may be lost, fraction.

    Returns:
        names, most costly first, and the score with them float. All names where even then the
        budget is missed by rounding.

    Raises:
        ValueError: a budget below 0.
    """
    if budget < 0:
        raise ValueError(f"the mIoU budget must not be negative; got {budget}")
    names = [unit.name for unit in sensitivity.units]
    wanted = sensitivity.all_float.miou - budget
    low, high = 0, len(names)
    found = sensitivity.all_float
    while low < high:
        middle = (low + high) // 2
        score = judge.score(set(names[middle:]))
        if score.miou >= wanted:
            high, found = middle, score
        else:
            low = middle + 1
    return tuple(names[:high]), found

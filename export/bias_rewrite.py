"""Bias correction of a finished integer `.tflite`: new int32 biases from a reference's means.

Rounding shifts the mean of what a convolution computes, channel by channel, and the layers
behind carry the shift on. Over some photos, of the sums in front of the activation,

    new_bias[c] = bias[c] + round((E_reference[c] - E_integer[c]) / (input_scale * weight_scale[c]))

layer by layer, so that each layer sees the corrections before it (Nagel et al. 2019, data-free
quantization, arXiv:1906.04721, section 4.2, with measured means). The integer side is the exact
simulation of the file; nothing in the file but its biases is changed.
"""

import collections
import copy
import dataclasses
import io
import math
import pathlib
import zipfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf import atomic_file
from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.models.describe import describe
from deeplab_tf.models.imported import (
    IDENTITY,
    NetworkDescription,
    Node,
    build_imported,
    simulate_quantization,
)
from deeplab_tf.quantization.folding import fold_batch_norms
from deeplab_tf.quantization.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.training.config import read_config
from deeplab_tf.training.initialization import load_named
from deeplab_tf.training.run_folder import Phase, RunFolder
from export.calibration import Calibration, calibrate
from export.shrink import pack
from export.source import RunSource
from tflite_tools.graph import Graph, Operator, read_graph
from tflite_tools.manifest import Manifest, manifest_path, read_manifest, sha256_of
from tflite_tools.tables import align
from tflite_tools.to_keras.contract import InputContract
from tflite_tools.to_keras.fidelity import FileRunner, compare
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph
from tflite_tools.to_keras.rules import RULES
from tflite_tools.to_keras.view import INTEGER_RANGES

LARGEST_DIFFERENCE = 0.25
"""|file - reference| / |reference| of two kernels that count as the same layer's. Rounding to 8
bits makes 0.01, quantization-aware training a little more, another layer's kernel 1.4; a kernel
whose channels were scaled (equalization) computes in other units and must not pass."""
_SLOTS = {
    "CONV_2D": (0, 2),
    "DEPTHWISE_CONV_2D": (0, 2),
    "FULLY_CONNECTED": (0, 2),
    "TRANSPOSE_CONV": (2, 3),
}
"""Input slots of the data and of the bias; the weights are in slot 1."""
_AFFINE = ("batch_norm", "elementwise_constant", "rescaling")
_INT32_MAX = 2**31 - 1
_LEAST_EQUAL = 0.99
"""Of the output; below, the simulation is not what the runtime computes."""


@dataclasses.dataclass(frozen=True)
class BiasCorrectionPlan:
    """What to do with a file.

    Attributes:
        model: the integer `.tflite`.
        output: the corrected one.
        calibration: list that photos are chosen from.
        reference: float `.tflite` or run folder; None for the file's own weights without any
            rounding of activations.
        calibration_images, calibration_seed: how many photos, and which.
        mean, std: of a float input, in pixel units; None where the file says it.
        overwrite: replace an output that exists.
    """

    model: pathlib.Path
    output: pathlib.Path
    calibration: SegmentationDataset
    reference: pathlib.Path | None = None
    calibration_images: int = 32
    calibration_seed: int = 0
    mean: float | None = None
    std: float | None = None
    overwrite: bool = False

    def __post_init__(self):
        if self.calibration_images < 2:
            raise ValueError(
                f"calibration_images must be at least 2; got {self.calibration_images}: what one "
                "photo gives is no mean, 32 is a good number"
            )
        if self.output.suffix != ".tflite":
            raise ValueError(f"output must end in .tflite; got {self.output}")
        for source in (self.model, self.reference):
            if source and source.exists() and self.output.exists() and source.samefile(self.output):
                raise ValueError(f"output {self.output} would replace {source}; give another name")
        for path in (self.output, manifest_path(self.output)):
            if path.exists() and not self.overwrite:
                raise FileExistsError(f"{path} exists; give --overwrite or another output")


@dataclasses.dataclass(frozen=True)
class CorrectedLayer:
    """A layer with new biases.

    Attributes:
        position: of its operator in the file.
        kind: of the operator.
        name: of the layer, from the tensor that it computes.
        reference: layer that its means come from.
        correction: float64 [channels], what was added, as real values.
        steps: int64 [channels], the same in steps of the bias.
        limited: how many corrections were cut because the int32 sum could overflow.
    """

    position: int
    kind: str
    name: str
    reference: str
    correction: np.ndarray
    steps: np.ndarray
    limited: int


@dataclasses.dataclass(frozen=True)
class LayerLeftAlone:
    """A layer whose biases are as they were, and why."""

    position: int
    kind: str
    name: str
    reason: str


@dataclasses.dataclass(frozen=True)
class CorrectedFile:
    """What became of a file.

    Attributes:
        layers: corrected, in the file's order.
        left_alone: the others.
        logits: layer that the ratios speak of, the last convolution.
        snr_before_db, snr_after_db: 10 log10(sum reference^2 / sum (file - reference)^2) of its
            output over the calibration photos.
        equal_outputs: share of the output's values (of classes, where it has them) that are
            the same in the runtime and in the simulation, on the first photo; None where an
            unknown operator ends the simulation before the output.
        in_place: whether all bytes but the biases' are the original's.
    """

    layers: tuple[CorrectedLayer, ...]
    left_alone: tuple[LayerLeftAlone, ...]
    logits: str
    snr_before_db: float
    snr_after_db: float
    equal_outputs: float | None
    in_place: bool

    def warnings(self) -> list[str]:
        """What a user should know before the file is used, one line each."""
        lines = [
            f"left alone: operator {left.position}, {left.kind} {left.name!r}: {left.reason}"
            for left in self.left_alone
        ]
        lines += [
            f"{layer.limited} corrections of {layer.name!r} were cut: the int32 sum could overflow"
            for layer in self.layers
            if layer.limited
        ]
        if not self.in_place:
            lines.append("some biases shared their bytes: the file was packed anew")
        if self.equal_outputs is not None and self.equal_outputs < _LEAST_EQUAL:
            lines.append(
                f"only {self.equal_outputs:.1%} of the runtime's output is the simulation's, that "
                "the means were taken from: trust a score, not the ratio"
            )
        if self.snr_after_db < self.snr_before_db:
            lines.append("the logits are farther from the reference than before: keep the original")
        return lines

    def table(self) -> str:
        """What was added to each layer's biases: largest and mean absolute value."""
        names = ("max", "mean", "max steps", "mean steps")
        header = [("operator", "<"), ("layer", "<"), *((name, ">") for name in names)]
        rows = []
        for layer in self.layers:
            real, steps = np.abs(layer.correction), np.abs(layer.steps)
            numbers = (f"{real.max():.2g}", f"{real.mean():.2g}", str(steps.max()))
            rows.append([layer.kind, layer.name[-48:], *numbers, f"{steps.mean():.1f}"])
        return align(header, rows)


def correct_biases(plan: BiasCorrectionPlan) -> CorrectedFile:
    """Corrects a file's biases and writes it, with its manifest where it has one.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: the file has no int32 biases, its photos or its reference do not fit it, or
            the reference holds or gives NaN.
        RuntimeError: the runtime refuses the file.
    """
    graph = read_graph(plan.model)
    manifest = _read_manifest(plan)
    file = _read_file(graph)
    _runner(plan.model)
    contract = file.network.contract.with_normalization(plan.mean, plan.std)
    preprocessing = _preprocessing(contract, manifest if plan.mean is None else None)
    pixels, record = _photos(plan, contract.shape)
    reference = _reference(plan, file.network, preprocessing)
    pairs = _match(plan, file, reference)
    file = _comparable(file, reference, pairs)
    logits = file.convolutions[-1].name
    means, wanted = _reference_means(reference, pixels, pairs, logits)
    walk = _Walk(file, logits, [preprocessing.normalize(image[None]) for image in pixels])
    before = _snr_db(wanted, walk.uncorrected_logits())
    corrected = _correct(walk, file.layers, means, pairs)
    after = _snr_db(wanted, walk.logits())
    biases = {
        (layer.operator.position, _SLOTS[layer.operator.kind][1]): layer.bias + done.steps
        for layer, done in zip(file.layers, corrected, strict=True)
    }
    content, in_place = rewrite_biases(plan.model.read_bytes(), biases)
    equal = _write(plan.output, content, graph, biases, walk if file.whole else None)
    if manifest is not None:
        new = _corrected_manifest(manifest, reference.name, record, content)
        new.write(manifest_path(plan.output))
    return CorrectedFile(
        tuple(corrected), tuple(file.left_alone), logits, before, after, equal, in_place
    )


def _read_manifest(plan: BiasCorrectionPlan) -> Manifest | None:
    manifest = read_manifest(plan.model)
    if manifest is None and manifest_path(plan.output).exists():
        raise ValueError(
            f"{manifest_path(plan.output)} describes another file and {plan.model} has no manifest "
            "to put in its place; remove it or give another output"
        )
    return manifest


def _runner(path: pathlib.Path) -> FileRunner:
    try:
        return FileRunner(path)
    except (ValueError, RuntimeError) as error:
        raise RuntimeError(
            f"the runtime refuses {path} ({error}); only a file that runs here is corrected"
        ) from error


def _preprocessing(contract: InputContract, manifest: Manifest | None) -> Preprocessing:
    """What the photos get: the manifest's, else what the input itself says."""
    if manifest is not None:
        return manifest.preprocessing
    if contract.mean is None or contract.std is None:
        raise ValueError("the file does not say what its float input means; give --mean and --std")
    channels = contract.shape[-1]
    return Preprocessing((contract.mean,) * channels, (contract.std,) * channels)


def _photos(plan: BiasCorrectionPlan, shape) -> tuple[np.ndarray, Calibration]:
    """uint8 [count, height, width, channels] and the record of what was chosen."""
    dataset = plan.calibration
    if len(shape) != 4 or shape[0] != 1 or shape[3] != dataset.channels:
        raise ValueError(
            f"{plan.model} takes {list(shape)}, which is not one photo of {dataset.name} with "
            f"{dataset.channels} channels; choose another data set"
        )
    _, height, width, _ = shape
    return calibrate(dataset, height, width, plan.calibration_images, plan.calibration_seed)


@dataclasses.dataclass(frozen=True)
class _Layer:
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
class _File:
    """The file as a network.

    Attributes:
        network: up to the output, or up to where it is known.
        whole: whether that is the output.
        convolutions: its nodes with a kernel, in the file's order.
        layers: those whose bias can be corrected.
        left_alone: all other convolutions of the file.
    """

    network: ImportedNetwork
    whole: bool
    convolutions: list[Node]
    layers: list[_Layer]
    left_alone: list[LayerLeftAlone]


def _read_file(graph: Graph) -> _File:
    """Raises ValueError where no layer can be corrected."""
    end = _known_end(graph)
    network = import_graph(graph, end)
    imported = {row.position for row in network.rows}
    names = collections.Counter(tensor.name for tensor in graph.tensors if tensor.data is None)
    file = _File(network, not end, [], [], [])
    for operator in graph.operators:
        if operator.kind not in _SLOTS:
            continue
        name = graph.tensors[operator.outputs[0]].name
        try:
            if operator.position not in imported:
                raise ValueError(f"it is not in front of {end!r}, where the known part ends")
            if names[name] > 1:
                raise ValueError(f"{names[name]} tensors have its output's name")
            node = _node_with_kernel(network, name)
            file.convolutions.append(node)
            file.layers.append(_layer(graph, operator, node))
        except ValueError as error:
            reason = str(error)
            file.left_alone.append(LayerLeftAlone(operator.position, operator.kind, name, reason))
    if not file.layers:
        first = next((f" ({left.kind}: {left.reason})" for left in file.left_alone), "")
        raise ValueError(
            f"{graph.path} has no int32 bias to correct{first}; give an int8 or uint8 file"
        )
    return file


def _known_end(graph: Graph) -> str:
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
            own = {operator.position} if operator.kind in _SLOTS else set()
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


def _layer(graph: Graph, operator: Operator, node: Node) -> _Layer:
    """Raises ValueError with "it ..." or "its ..." where the bias cannot be corrected."""
    data_slot, bias_slot = _SLOTS[operator.kind]
    if len(operator.inputs) <= bias_slot or operator.inputs[bias_slot] < 0:
        raise ValueError("it has no bias")
    data, weights, bias = (
        graph.tensors[operator.inputs[slot]] for slot in (data_slot, 1, bias_slot)
    )
    if bias.type_name != "INT32" or bias.data is None:
        raise ValueError(f"its bias is {bias.type_name}")
    if data.quantization is None or weights.quantization is None or weights.data is None:
        raise ValueError("its input or its weights are not quantized")
    if data.type_name not in INTEGER_RANGES:
        raise ValueError(f"its input is {data.type_name}")
    low, high = INTEGER_RANGES[data.type_name]
    zero_point = int(data.quantization.zero_point[0])
    axis = 3 if operator.kind == "DEPTHWISE_CONV_2D" else 0
    kernel = np.moveaxis(weights.data.astype(np.int64), axis, -1)
    kernel = np.abs(kernel - weights.quantization.zero_point)
    products = kernel.reshape(-1, bias.data.size).sum(0) * max(zero_point - low, high - zero_point)
    values = bias.data.ravel().astype(np.int64)
    # The product is rounded to float32, as the kernels' own is.
    scale = data.quantization.scale[0] * weights.quantization.scale
    if scale.min() <= 0:
        raise ValueError("its scale is 0")
    return _Layer(
        operator,
        node,
        values,
        np.broadcast_to(scale.astype(np.float64), values.shape),
        np.maximum(_INT32_MAX - products, np.abs(values)),
    )


@dataclasses.dataclass(frozen=True)
class _Reference:
    """The float network.

    Attributes:
        name: for messages and the manifest.
        description, arrays: the network, batch norms folded.
        preprocessing: of its photos.
    """

    name: str
    description: NetworkDescription
    arrays: dict[str, np.ndarray]
    preprocessing: Preprocessing


def _reference(
    plan: BiasCorrectionPlan, network: ImportedNetwork, preprocessing: Preprocessing
) -> _Reference:
    path, shape = plan.reference, network.description.input_shape
    if path is None:
        name = "its own weights as floats"
        return _Reference(name, network.description, network.arrays, preprocessing)
    name = path.resolve().name
    if path.is_dir():
        model = RunSource(RunFolder(path)).model(Phase.FLOAT, *shape[:2])
        folded = fold_batch_norms(*describe(model))
        trained = read_config(path).preprocessing
        reference = _Reference(f"run {name}", folded.description, folded.arrays, trained)
    else:
        graph = read_graph(path)
        found = import_graph(graph, _known_end(graph))
        if found.is_quantized:
            raise ValueError(
                f"reference {path} has integer activations; give a float file or a run folder, or "
                "no --reference for the file's own weights"
            )
        manifest = read_manifest(path)
        own = manifest.preprocessing if manifest else preprocessing
        reference = _Reference(name, found.description, found.arrays, own)
    if reference.description.input_shape != shape:
        raise ValueError(
            f"{plan.model} takes {list(shape)}, reference {path} "
            f"{list(reference.description.input_shape)}; both must take the same photos"
        )
    for key, value in reference.arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"reference {path}: {key} holds NaN or infinity; give sound weights")
    return reference


def _match(plan: BiasCorrectionPlan, file: _File, reference: _Reference) -> dict[str, str]:
    """{convolution of the file: convolution of the reference}.

    Branches stand in any order in a graph, and the rates of an ASPP have kernels of one shape:
    among the reference's convolutions of the same kind and shape, the weights decide.

    Raises:
        ValueError: a convolution of the file has none, or only one with other weights.
    """
    free = [node for node in reference.description.nodes if node.kind in WITH_KERNEL]
    pairs = {}
    for node in file.convolutions:
        kernel = file.network.arrays[kernel_key(node)]
        differences = {
            other.name: _difference(kernel, reference.arrays[kernel_key(other)])
            for other in free
            if other.kind == node.kind
        }
        nearest = min(differences, key=differences.__getitem__, default="")
        if not differences.get(nearest, math.inf) <= LARGEST_DIFFERENCE:
            other = _describe(nearest, reference) if nearest else "nothing is left"
            if math.isfinite(differences.get(nearest, math.inf)):
                other += f", whose weights differ by {differences[nearest]:.0%}"
            raise ValueError(
                f"{plan.model}: {_describe(node.name, file.network)} has no partner in reference "
                f"{plan.reference}; nearest: {other}. Give the network that the file was "
                "converted from, scaled in the same way"
            )
        pairs[node.name] = nearest
        free = [other for other in free if other.name != nearest]
    return pairs


def _describe(name: str, network: "ImportedNetwork | _Reference") -> str:
    node = network.description.node(name)
    return f"{node.kind} {name!r} {list(network.arrays[kernel_key(node)].shape)}"


def _difference(kernel: np.ndarray, reference: np.ndarray) -> float:
    """|kernel - reference| / |reference|; infinite for other shapes."""
    if kernel.shape != reference.shape:
        return math.inf
    kernel, reference = kernel.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(kernel - reference)) / (float(np.linalg.norm(reference)) or 1.0)


def _comparable(file: _File, reference: _Reference, pairs: dict[str, str]) -> _File:
    """The file without the layers whose sums are other sums than their partners'.

    Behind SPACE_TO_BATCH_ND, for example, some converters leave the bias as an addition of its
    own, and a float file's is put back into its convolution when it is read.

    Raises:
        ValueError: no layer is left.
    """
    layers, left_alone = [], list(file.left_alone)
    for layer in file.layers:
        own = _affine_behind(file.network, layer.node.name)
        other = _affine_behind(reference, pairs[layer.node.name])
        if own == other:
            layers.append(layer)
            continue
        reason = (
            f"behind it the file has {own or 'no product or sum with constants'}, the reference "
            f"{other or 'none'}: their means are not those of one thing"
        )
        position, kind = layer.operator.position, layer.operator.kind
        left_alone.append(LayerLeftAlone(position, kind, layer.node.name, reason))
    if not layers:
        raise ValueError(f"no layer can be corrected: {left_alone[-1].reason}")
    return dataclasses.replace(file, layers=layers, left_alone=left_alone)


def _affine_behind(network: "ImportedNetwork | _Reference", name: str) -> str:
    """Kind of what scales or shifts the channels right behind a convolution; "" for nothing."""
    node = network.description.only_consumer(name)
    while node is not None and node.kind == IDENTITY:
        node = network.description.only_consumer(node.name)
    if node is None:
        return ""
    single = node.kind == "depthwise_conv2d" and max(node.attributes["kernel_size"]) == 1
    return node.kind if single or node.kind in _AFFINE else ""


def _loaded(description: NetworkDescription, arrays: dict[str, np.ndarray]) -> keras.Model:
    model = build_imported(description)
    report = load_named(model, arrays)
    if report.missing or report.mismatched:
        raise ValueError(f"weights do not fit the network ({report.lines()[1]})")
    return model


def _reference_means(
    reference: _Reference, pixels: np.ndarray, pairs: dict[str, str], logits: str
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """{convolution of the file: float64 [channels]}, the means of its partner, and the logits of
    each photo.

    Raises:
        ValueError: NaN or infinity.
    """
    model = _loaded(reference.description, reference.arrays)
    partners = {name: model.get_layer(partner).output for name, partner in pairs.items()}
    probe = keras.Model(model.input, partners)

    @tf.function
    def measure(image):
        values = probe(image, training=False)
        return {name: _channel_mean(value) for name, value in values.items()}, values[logits]

    sums: dict[str, np.ndarray] = {name: np.zeros(1) for name in pairs}
    outputs = []
    for image in pixels:
        means, output = measure(tf.constant(reference.preprocessing.normalize(image[None])))
        sums = {name: sums[name] + mean.numpy() for name, mean in means.items()}
        outputs.append(output.numpy())
    for name, total in sums.items():
        if not np.isfinite(total).all():
            raise ValueError(
                f"reference {reference.name}: layer {pairs[name]!r} gives NaN or infinity; give "
                "one whose output is sound on these photos"
            )
    return {name: total / len(pixels) for name, total in sums.items()}, outputs


def _channel_mean(value):
    """[batch, ..., channels] -> float64 [channels]."""
    return tf.reduce_mean(tf.cast(value, tf.float64), tuple(range(len(value.shape) - 1)))


class _Walk:
    """The file's simulation, run node by node over all photos, so that a bias can change between
    two nodes. What integer tensors hold is kept as integers; what stands between two of them is
    computed again whenever it is asked for."""

    def __init__(self, file: _File, logits: str, images: list[np.ndarray]):
        simulated = simulate_quantization(file.network.description, file.network.ranges)
        self.model = _loaded(simulated, file.network.arrays)
        for layer in file.layers:  # float32 does not hold every int32
            self.set_bias(layer.node.name, layer.bias * layer.scale)
        self.images = images
        self._nodes = {node.name: node for node in simulated.nodes}
        follower = simulated.only_consumer(logits)
        rounded = follower is not None and follower.kind == "simulated_quantization"
        # With an activation inside, the reference has a value to compare before it alone.
        self._logits = follower.name if follower is not None and rounded else logits
        self._kept = {self._logits} | {
            node.name
            for node in simulated.nodes
            if node.kind == "simulated_quantization" or len(simulated.consumers(node.name)) > 1
        }
        self._values: dict[str, list[np.ndarray]] = {simulated.input_name: images}

    def __iter__(self) -> Iterator[Node]:
        """Nodes in the order of execution; each runs when the next is asked for."""
        last_use = self._last_uses()
        for position, node in enumerate(self._nodes.values()):
            yield node
            if node.name in self._kept:
                count = range(len(self.images))
                self._values[node.name] = [self._pack(node, self._run(node, i)) for i in count]
            for name in [n for n in self._values if last_use.get(n, 0) <= position]:
                if name != self._logits:
                    del self._values[name]

    def _last_uses(self) -> dict[str, int]:
        """{value: position of the last node that needs it, directly or by computing again}."""
        uses: dict[str, int] = {}
        for position, node in reversed(list(enumerate(self._nodes.values()))):
            needed = position if node.name in self._kept else uses.get(node.name, position)
            for name in node.inputs:
                uses[name] = max(uses.get(name, 0), needed)
        return uses

    def mean(self, name: str) -> np.ndarray:
        """float64 [channels], over all photos."""
        count = len(self.images)
        return sum(_channel_mean(self._value(name, i)).numpy() for i in range(count)) / count

    def set_bias(self, name: str, real: np.ndarray) -> None:
        self.model.get_layer(name).bias.assign(real)

    def logits(self) -> list[np.ndarray]:
        """Of each photo, after the walk."""
        return [np.asarray(self._value(self._logits, i)) for i in range(len(self.images))]

    def uncorrected_logits(self) -> list[np.ndarray]:
        """Of each photo, before the walk."""
        layer = self.model.get_layer(self._logits)
        run = tf.function(keras.Model(self.model.input, layer.output))
        return [run(tf.constant(image)).numpy() for image in self.images]

    def _value(self, name: str, photo: int):
        if name not in self._values:
            return self._run(self._nodes[name], photo)
        stored = self._values[name][photo]
        return self._unpack(self._nodes[name], stored) if name in self._nodes else stored

    def _run(self, node: Node, photo: int):
        inputs = [self._value(name, photo) for name in node.inputs]
        value = inputs if len(inputs) > 1 else inputs[0]
        return value if node.kind == IDENTITY else self.model.get_layer(node.name)(value)

    @staticmethod
    def _pack(node: Node, value) -> np.ndarray:
        if node.kind != "simulated_quantization":
            return np.asarray(value)
        settings = node.attributes
        steps = np.rint(np.asarray(value) / np.float32(settings["scale"])) + settings["zero_point"]
        return steps.astype(np.min_scalar_type(settings["quantized_min"] or 255))

    @staticmethod
    def _unpack(node: Node, stored: np.ndarray) -> np.ndarray:
        if node.kind != "simulated_quantization":
            return stored
        settings = node.attributes
        return np.float32(settings["scale"]) * (
            stored.astype(np.float32) - np.float32(settings["zero_point"])
        )


def _correct(
    walk: _Walk, layers: list[_Layer], means: dict[str, np.ndarray], pairs: dict[str, str]
) -> list[CorrectedLayer]:
    by_node = {layer.node.name: layer for layer in layers}
    corrected = []
    for node in walk:
        layer = by_node.get(node.name)
        if layer is None:
            continue
        wanted = layer.bias + np.rint((means[node.name] - walk.mean(node.name)) / layer.scale)
        bias = np.clip(wanted, -layer.largest, layer.largest).astype(np.int64)
        walk.set_bias(node.name, bias * layer.scale)
        steps = bias - layer.bias
        done = CorrectedLayer(
            layer.operator.position,
            layer.operator.kind,
            node.name,
            pairs[node.name],
            steps * layer.scale,
            steps,
            int((bias != wanted).sum()),
        )
        corrected.append(done)
        if len(corrected) % 10 == 0 or len(corrected) == len(layers):
            logging.info("%d of %d layers corrected", len(corrected), len(layers))
    return corrected


def _snr_db(references: list[np.ndarray], values: list[np.ndarray]) -> float:
    pairs = list(zip(references, values, strict=True))
    signal = sum(float(np.square(r, dtype=np.float64).sum()) for r, _ in pairs)
    noise = sum(float(np.square(v - r, dtype=np.float64).sum()) for r, v in pairs)
    return 10 * math.log10(signal / noise) if signal and noise else math.inf


def rewrite_biases(content: bytes, biases: dict[tuple[int, int], np.ndarray]) -> tuple[bytes, bool]:
    """Puts other integers into biases of a `.tflite`.

    Where every one of them has bytes of its own, these alone change. Where one shares them (a
    tensor with two readers, equal vectors stored once) it gets its own, and the file is packed
    anew; a list of labels that is packed behind the graph comes along.

    Args:
        content: the file.
        biases: {(operator position, input slot): integers [channels]}.

    Returns:
        the new file, and whether it was changed in place.
    """
    changed = bytearray(content)
    views = _own_bytes(schema.Model.GetRootAs(changed, 0), list(biases))
    if views is None:
        return _packed_anew(content, biases), False
    for key, bias in biases.items():
        views[key][:] = _as_bytes(bias)
    return bytes(changed), True


def _as_bytes(bias: np.ndarray) -> np.ndarray:
    return np.frombuffer(bias.astype("<i4").tobytes(), np.uint8)


def _own_bytes(model, keys) -> dict[tuple[int, int], np.ndarray] | None:
    """Views of the biases' bytes in the file; None where anything else reads those of one."""
    graph = model.Subgraphs(0)
    readers, users = _readers_and_users(schema.ModelT.InitFromObj(model))
    stored = {index: model.Buffers(index).DataAsNumpy() for index in range(model.BuffersLength())}
    stored = {index: view for index, view in stored.items() if not isinstance(view, int)}
    views = {}
    for position, slot in keys:
        tensor = graph.Operators(position).Inputs(slot)
        buffer = graph.Tensors(tensor).Buffer()
        others = (view for index, view in stored.items() if index != buffer)
        shared = any(np.may_share_memory(stored[buffer], view) for view in others)
        if readers[tensor] > 1 or users[buffer] > 1 or shared:
            return None
        views[position, slot] = stored[buffer]
    return views


def _readers_and_users(model: schema.ModelT) -> tuple[collections.Counter, collections.Counter]:
    """How many inputs read each tensor, and how many tensors (and metadata) each buffer."""
    graph = model.subgraphs[0]
    readers = collections.Counter(int(i) for op in graph.operators for i in op.inputs)
    readers.update(int(i) for i in graph.outputs)
    users = collections.Counter(tensor.buffer for tensor in graph.tensors)
    users.update(entry.buffer for entry in model.metadata or [])
    return readers, users


def _packed_anew(content: bytes, biases: dict[tuple[int, int], np.ndarray]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    readers, users = _readers_and_users(model)
    graph = model.subgraphs[0]
    for (position, slot), bias in biases.items():
        operator = graph.operators[position]
        index = int(operator.inputs[slot])
        tensor = graph.tensors[index]
        shared = users[tensor.buffer] > 1
        if readers[index] > 1:
            tensor, shared = copy.copy(tensor), True
            operator.inputs = operator.inputs.copy()
            operator.inputs[slot] = len(graph.tensors)
            graph.tensors.append(tensor)
        if shared:
            tensor.buffer = len(model.buffers)
            model.buffers.append(schema.BufferT())
        model.buffers[tensor.buffer].data = _as_bytes(bias)
    return _with_packed_files(pack(model, len(content)), content)


def _with_packed_files(graph: bytes, original: bytes) -> bytes:
    """Appends what the original has in a ZIP behind its graph, such as labels."""
    if not zipfile.is_zipfile(io.BytesIO(original)):
        return graph
    stream = io.BytesIO(graph)
    with (
        zipfile.ZipFile(io.BytesIO(original)) as packed,
        zipfile.ZipFile(stream, "a") as appended,
    ):
        for entry in packed.infolist():
            appended.writestr(entry, packed.read(entry))
    return stream.getvalue()


def _write(
    path: pathlib.Path, content: bytes, original: Graph, biases: dict, walk: _Walk | None
) -> float | None:
    """Writes the file once it is read back and run; returns the share of equal outputs."""
    with atomic_file.atomic_path(path) as temporary:
        temporary.write_bytes(content)
        if _constants(read_graph(temporary), {}) != _constants(original, biases):
            raise RuntimeError(f"{path} would differ in more than biases; it is not written")
        run = _runner(temporary)
        if walk is None:
            return None
        image = walk.images[0]
        with np.errstate(invalid="ignore", divide="ignore"):  # of a constant output
            return compare([(run(image), np.asarray(walk.model(image)))]).equal_classes


def _constants(graph: Graph, biases: dict[tuple[int, int], np.ndarray]) -> list:
    """What every operator is, writes and reads, with other biases where some are given."""
    rows = []
    for operator in graph.operators:
        values = [graph.tensors[index].data if index >= 0 else None for index in operator.inputs]
        for slot in range(len(values)):
            if (operator.position, slot) in biases:
                values[slot] = biases[operator.position, slot].astype(np.int32)
        stored = [None if value is None else value.tobytes() for value in values]
        rows.append((operator.kind, operator.outputs, stored))
    return rows


def _corrected_manifest(
    manifest: Manifest, reference: str, record: Calibration, content: bytes
) -> Manifest:
    return dataclasses.replace(
        manifest,
        source=(
            f"{manifest.source}; biases corrected to the means of {reference} on "
            f"{len(record.samples)} images of {record.dataset} {record.split}, seed {record.seed}"
        ),
        sha256=sha256_of(content),
        size_bytes=len(content),
    )

"""The network that a file's means are compared with: read, paired layer by layer, measured."""

import dataclasses
import math
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import describe
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import IDENTITY, NetworkDescription
from deeplab_tf.quantization.calibration.empty_pixels import weights_of
from deeplab_tf.training.config import read_config
from deeplab_tf.training.run_folder import Phase, RunFolder
from export.bias_correction.integer_network import (
    IntegerFile,
    LayerLeftAlone,
    channel_mean,
    known_end,
    mean_of_photos,
)
from export.bias_correction.plan import BiasCorrectionPlan
from export.conversion.source import RunSource
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import read_input_contract
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph

LARGEST_DIFFERENCE = 0.25
"""|file - reference| / |reference| of two kernels that count as the same layer's. Rounding to 8
bits makes 0.01, quantization-aware training a little more, another layer's kernel 1.4; a kernel
whose channels were scaled (equalization) computes in other units and must not pass."""


_AFFINE = ("batch_norm", "elementwise_constant", "rescaling")


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


def read_reference(
    plan: BiasCorrectionPlan, network: ImportedNetwork, *, preprocessing: Preprocessing
) -> _Reference:
    path, shape = plan.reference, network.description.input_shape
    if path is None:
        name = "its own weights as floats"
        return _Reference(
            name, network.description, arrays=network.arrays, preprocessing=preprocessing
        )
    name = path.resolve().name
    if path.is_dir():
        reference = nearest_of_run(path, network)
    else:
        graph = read_graph(path)
        found = import_graph(graph, known_end(graph))
        if found.is_quantized:
            raise ValueError(
                f"reference {path} has integer activations; give a float file or a run folder, or "
                "no --reference for the file's own weights"
            )
        contract = read_input_contract(path, graph)
        own = contract.preprocessing if contract.is_known else preprocessing
        reference = _Reference(name, found.description, arrays=found.arrays, preprocessing=own)
    if reference.description.input_shape != shape:
        raise ValueError(
            f"{plan.model} takes {list(shape)}, reference {path} "
            f"{list(reference.description.input_shape)}; both must take the same photos"
        )
    for key, value in reference.arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"reference {path}: {key} holds NaN or infinity; give sound weights")
    return reference


def nearest_of_run(path: pathlib.Path, network: ImportedNetwork) -> _Reference:
    """The float network of a run that the file was made of: its weights say which."""
    twins = RunSource(RunFolder(path)).float_twins(*network.description.input_shape[:2])
    preprocessing = read_config(path).preprocessing
    references = []
    for phase, model in twins.items():
        folded = fold_batch_norms(*describe(model))
        inside = " (trained quantization-aware)" if phase is Phase.QUANTIZED else ""
        name = f"run {path.resolve().name}{inside}"
        references.append(
            _Reference(name, folded.description, arrays=folded.arrays, preprocessing=preprocessing)
        )
    return min(references, key=lambda reference: _distance(network, reference))


def _distance(network: ImportedNetwork, reference: _Reference) -> float:
    """Sum over the file's kernels of their difference from the reference's nearest one."""
    kernels = [
        (node.kind, reference.arrays[kernel_key(node)])
        for node in reference.description.nodes
        if node.kind in WITH_KERNEL
    ]
    total = 0.0
    for node in network.description.nodes:
        if node.kind in WITH_KERNEL:
            own = network.arrays[kernel_key(node)]
            total += min(
                (_difference(own, k) for kind, k in kernels if kind == node.kind), default=0
            )
    return total


def pair_layers(
    plan: BiasCorrectionPlan, file: IntegerFile, *, reference: _Reference
) -> dict[str, str]:
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


def drop_unlike(file: IntegerFile, reference: _Reference, *, pairs: dict[str, str]) -> IntegerFile:
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
        left_alone.append(LayerLeftAlone(position, kind, name=layer.node.name, reason=reason))
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


def reference_means(
    reference: _Reference,
    pixels: np.ndarray,
    *,
    pairs: dict[str, str],
    logits: str,
    ignore_empty: bool = False,
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """{convolution of the file: float64 [channels]}, the means of its partner, and the logits of
    each photo.

    Raises:
        ValueError: NaN or infinity.
    """
    model = Executor(reference.description, reference.arrays).model
    partners = {name: model.get_layer(partner).output for name, partner in pairs.items()}
    probe = keras.Model(model.input, partners)

    @tf.function
    def measure(image, shares):
        values = probe(image, training=False)
        means = {name: channel_mean(value, shares.get(name)) for name, value in values.items()}
        return means, values[logits]

    means: dict[str, list[np.ndarray]] = {name: [] for name in pairs}
    counts: dict[str, list[float]] = {name: [] for name in pairs}
    outputs = []
    for image in pixels:
        given = reference.preprocessing.normalize(image[None])
        (weights,) = weights_of([given], ignore_empty)
        shares = {n: weights.of(v) for n, v in partners.items()} if weights else {}
        found, output = measure(tf.constant(given), {n: tf.constant(s) for n, s in shares.items()})
        for name, mean in found.items():
            means[name].append(mean.numpy())
            counts[name].append(shares[name].sum() if shares else 1.0)
        outputs.append(output.numpy())
    for name, values in means.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"reference {reference.name}: layer {pairs[name]!r} gives NaN or infinity; give "
                "one whose output is sound on these photos"
            )
    return {name: mean_of_photos(values, counts[name]) for name, values in means.items()}, outputs

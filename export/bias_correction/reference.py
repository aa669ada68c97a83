"""The reference of a bias correction: read, paired with the file layer by layer, measured."""

import dataclasses
import math
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.kernels import WITH_KERNEL, kernel_key
from deeplab_tf.graph.network import IDENTITY, NetworkGraph
from deeplab_tf.quantization.calibration.empty_pixels import pixel_weights
from deeplab_tf.runs.config import read_config
from deeplab_tf.runs.folder import Phase, RunFolder
from export.bias_correction.integer_network import (
    IntegerFile,
    SkippedLayer,
    channel_mean,
    last_known_tensor,
    mean_of_images,
)
from export.bias_correction.plan import BiasCorrectionPlan
from export.conversion.source import RunSource
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.input_contract import read_input_contract
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph

LARGEST_DIFFERENCE = 0.25
"""Largest |file - reference| / |reference| of two kernels that count as the same layer's. Rounding
to 8 bits gives 0.01, quantization-aware training a little more, another layer's kernel 1.4; a
kernel whose channels were scaled (equalization) computes in other units and must not match."""


_AFFINE = ("batch_norm", "elementwise_constant", "rescaling")


@dataclasses.dataclass(frozen=True)
class Reference:
    """The float network that the file's means are compared with.

    Attributes:
        name: for messages and the manifest.
        description: the network, batch norms folded.
        arrays: its weights.
        preprocessing: normalization of its input.
    """

    name: str
    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    preprocessing: Preprocessing


def read_reference(
    plan: BiasCorrectionPlan, network: ImportedNetwork, *, preprocessing: Preprocessing
) -> Reference:
    """Reads the reference of a plan.

    Args:
        plan: names the reference.
        network: the file as a network.
        preprocessing: of the file; used where the reference's own is not known.

    Returns:
        the reference.

    Raises:
        ValueError: it is not float, takes another input, or holds NaN or infinity.
    """
    path, shape = plan.reference, network.description.input_shape
    if path is None:
        name = "its own weights as floats"
        return Reference(
            name, network.description, arrays=network.arrays, preprocessing=preprocessing
        )
    name = path.resolve().name
    if path.is_dir():
        reference = nearest_network_of_run(path, network)
    else:
        graph = read_graph(path)
        imported = import_graph(graph, last_known_tensor(graph))
        if imported.is_quantized:
            raise ValueError(
                f"reference {path}: expected float activations, got integer ones; give a float "
                "file or a run folder, or no --reference for the file's own weights"
            )
        contract = read_input_contract(path, graph)
        own = contract.preprocessing if contract.is_known else preprocessing
        reference = Reference(name, imported.description, arrays=imported.arrays, preprocessing=own)
    if reference.description.input_shape != shape:
        raise ValueError(
            f"reference {path}: expected input {list(shape)} as {plan.model} takes, got "
            f"{list(reference.description.input_shape)}; give a reference of that size"
        )
    for key, value in reference.arrays.items():
        if not np.isfinite(value).all():
            raise ValueError(f"reference {path}: {key} holds NaN or infinity; give finite weights")
    return reference


def nearest_network_of_run(path: pathlib.Path, network: ImportedNetwork) -> Reference:
    """Finds the float network of a run whose weights are nearest to the file's.

    Args:
        path: run folder.
        network: the file as a network.

    Returns:
        the network of the float phase, or the one inside the quantization-aware network.
    """
    models = RunSource(RunFolder(path)).float_models(*network.description.input_shape[:2])
    preprocessing = read_config(path).data.preprocessing
    references = []
    for phase, model in models.items():
        folded = fold_batch_norms(*graph_from_keras(model))
        inside = " (trained quantization-aware)" if phase is Phase.QUANTIZED else ""
        name = f"run {path.resolve().name}{inside}"
        references.append(
            Reference(name, folded.description, arrays=folded.arrays, preprocessing=preprocessing)
        )
    return min(references, key=lambda reference: _distance(network, reference))


def _distance(network: ImportedNetwork, reference: Reference) -> float:
    """Sums, over the file's kernels, the difference from the nearest kernel of the reference."""
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
    plan: BiasCorrectionPlan, file: IntegerFile, *, reference: Reference
) -> dict[str, str]:
    """Finds the convolution of the reference that belongs to each convolution of the file.

    The order of branches in a graph is arbitrary, and the branches of an ASPP have kernels of the
    same shape: among the reference's convolutions of the same kind and shape, the weights decide.

    Args:
        plan: for messages.
        file: the file as a network.
        reference: the float network.

    Returns:
        {convolution of the file: convolution of the reference}.

    Raises:
        ValueError: a convolution of the file has no counterpart, or only one with other weights.
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
            other = _layer_text(nearest, reference) if nearest else "nothing is left"
            if math.isfinite(differences.get(nearest, math.inf)):
                other += f", whose weights differ by {differences[nearest]:.0%}"
            raise ValueError(
                f"{plan.model}: {_layer_text(node.name, file.network)} has no counterpart in "
                f"reference {plan.reference}; nearest: {other}; give the network that the file was "
                "converted from, scaled in the same way"
            )
        pairs[node.name] = nearest
        free = [other for other in free if other.name != nearest]
    return pairs


def _layer_text(name: str, network: "ImportedNetwork | Reference") -> str:
    node = network.description.node(name)
    return f"{node.kind} {name!r} {list(network.arrays[kernel_key(node)].shape)}"


def _difference(kernel: np.ndarray, reference: np.ndarray) -> float:
    """|kernel - reference| / |reference|; infinite for other shapes."""
    if kernel.shape != reference.shape:
        return math.inf
    kernel, reference = kernel.astype(np.float64), reference.astype(np.float64)
    return float(np.linalg.norm(kernel - reference)) / (float(np.linalg.norm(reference)) or 1.0)


def drop_mismatched(
    file: IntegerFile, reference: Reference, *, pairs: dict[str, str]
) -> IntegerFile:
    """Skips the layers that compute another sum than their counterparts in the reference.

    Behind SPACE_TO_BATCH_ND, for example, some converters keep the bias as a separate addition,
    while the bias of a float file is moved into its convolution when it is read.

    Args:
        file: the file as a network.
        reference: the float network.
        pairs: {convolution of the file: convolution of the reference}.

    Returns:
        the file with fewer layers and more skipped ones.

    Raises:
        ValueError: no layer is left.
    """
    layers, skipped = [], list(file.skipped)
    for layer in file.layers:
        own = _affine_behind(file.network, layer.node.name)
        other = _affine_behind(reference, pairs[layer.node.name])
        if own == other:
            layers.append(layer)
            continue
        reason = (
            f"behind it the file has {own or 'no product or sum with constants'}, the reference "
            f"{other or 'none'}: their means cannot be compared"
        )
        position, kind = layer.operator.position, layer.operator.kind
        skipped.append(SkippedLayer(position, kind, name=layer.node.name, reason=reason))
    if not layers:
        raise ValueError(f"no layer can be corrected: {skipped[-1].reason}")
    return dataclasses.replace(file, layers=layers, skipped=skipped)


def _affine_behind(network: "ImportedNetwork | Reference", name: str) -> str:
    """Returns the kind of node that scales or shifts the channels behind a convolution, or ""."""
    node = network.description.only_consumer(name)
    while node is not None and node.kind == IDENTITY:
        node = network.description.only_consumer(node.name)
    if node is None:
        return ""
    single = node.kind == "depthwise_conv2d" and max(node.attributes["kernel_size"]) == 1
    return node.kind if single or node.kind in _AFFINE else ""


def reference_means(
    reference: Reference,
    pixels: np.ndarray,
    *,
    pairs: dict[str, str],
    logits: str,
    ignore_empty: bool = False,
) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    """Runs the reference and measures the channel means of its convolutions.

    Args:
        reference: the float network.
        pixels: uint8 [count, height, width, channels].
        pairs: {convolution of the file: convolution of the reference}.
        logits: convolution of the file that gives the logits.
        ignore_empty: give no weight to the empty pixels of range images.

    Returns:
        {convolution of the file: float64 [channels]}, and the reference's logits of each image.

    Raises:
        ValueError: a layer gives NaN or infinity.
    """
    model = Executor(reference.description, reference.arrays).model
    counterparts = {name: model.get_layer(other).output for name, other in pairs.items()}
    probe = keras.Model(model.input, counterparts)

    @tf.function
    def measure(
        image: tf.Tensor, shares: dict[str, tf.Tensor]
    ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
        values = probe(image, training=False)
        means = {name: channel_mean(value, shares.get(name)) for name, value in values.items()}
        return means, values[logits]

    means: dict[str, list[np.ndarray]] = {name: [] for name in pairs}
    counts: dict[str, list[float]] = {name: [] for name in pairs}
    outputs = []
    for image in pixels:
        given = reference.preprocessing.normalize(image[None])
        (weights,) = pixel_weights([given], ignore_empty)
        shares = {n: weights.of(v) for n, v in counterparts.items()} if weights else {}
        measured, output = measure(
            tf.constant(given), {n: tf.constant(s) for n, s in shares.items()}
        )
        for name, mean in measured.items():
            means[name].append(mean.numpy())
            counts[name].append(shares[name].sum() if shares else 1.0)
        outputs.append(output.numpy())
    for name, values in means.items():
        if not np.isfinite(values).all():
            raise ValueError(
                f"reference {reference.name}: layer {pairs[name]!r} gives NaN or infinity; give a "
                "reference whose values are finite on these images"
            )
    return {name: mean_of_images(values, counts[name]) for name, values in means.items()}, outputs

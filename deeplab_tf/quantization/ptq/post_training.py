"""Post-training quantization in steps, without retraining.

    float network -> fold batch norms -> equalize -> absorb high biases -> choose ranges
                  -> learn the rounding -> correct biases
                  -> fake-quantized network with exactly these weights and ranges

Each step is optional and reported. The last network holds the final weights and ranges, so that the
converter makes no choices of its own: the file computes what was planned here.
"""

import dataclasses
import enum
import typing

import numpy as np
import tf_keras as keras
from absl import logging

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.adaround.adaround import learn_rounding
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.calibration.activation_ranges import RangeMethod, choose_range, observe
from deeplab_tf.quantization.calibration.checks import check_images
from deeplab_tf.quantization.calibration.empty_pixels import empty_share
from deeplab_tf.quantization.ptq.bias_absorption import absorb_high_biases
from deeplab_tf.quantization.ptq.bias_correction import correct_analytically, correct_empirically
from deeplab_tf.quantization.ptq.equalization import Relu6, equalize, measure_replacement
from deeplab_tf.quantization.ptq.sensitivity import find_units, units_named
from deeplab_tf.quantization.qat import scheme
from deeplab_tf.quantization.qat.apply import quantize_aware
from deeplab_tf.quantization.qat.ranges import fill_ranges

BIAS_IMAGES = 16
"""Largest number of images for bias correction: all are in memory at once."""


class BiasMethod(enum.Enum):
    """Source of the shift of a layer's mean output."""

    NONE = "none"
    """Biases are not corrected."""
    EMPIRICAL = "empirical"
    """Measured on calibration images."""
    ANALYTIC = "analytic"
    """Computed from the batch norms of the float network."""


@dataclasses.dataclass(frozen=True)
class PostTraining:
    """Steps of post-training quantization.

    Attributes:
        per_channel: whether weights have one scale per channel; False for one per kernel (legacy
            accelerators).
        equalize: whether neighbouring kernels are equalized.
        relu6: how equalization treats ReLU6.
        absorb: whether high biases are absorbed.
        bias: how biases are corrected.
        ranges: how activation ranges are chosen.
        adaround: whether the rounding of weights is learned; takes minutes, and holds all images
            in memory.
        adaround_options: how it is learned.
        keep_float: layers that compute in float32, by their names in `sensitivity.find_units`.
        int16: layers that compute with 16-bit activations.
        ignore_empty: whether empty pixels of range images are excluded from all statistics.
    """

    per_channel: bool = True
    equalize: bool = False
    relu6: Relu6 = Relu6.EXACT
    absorb: bool = False
    bias: BiasMethod = BiasMethod.NONE
    ranges: RangeMethod = RangeMethod.MIN_MAX
    adaround: bool = False
    adaround_options: AdaRoundOptions = dataclasses.field(default_factory=AdaRoundOptions)
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()
    ignore_empty: bool = False

    def __post_init__(self) -> None:
        if both := sorted(set(self.keep_float) & set(self.int16)):
            raise ValueError(f"keep_float and int16 both name {', '.join(both)}; choose one")

    def to_json(self) -> dict[str, typing.Any]:
        """Returns the steps as a JSON object, the options of AdaRound only where it is used."""
        return {
            name: value.value if isinstance(value, enum.Enum) else value
            for name, value in dataclasses.asdict(self).items()
            if self.adaround or name != "adaround_options"
        }


@dataclasses.dataclass(frozen=True)
class PostTrained:
    """A quantized network that is ready for the converter.

    Attributes:
        model: with fake-quantizers, image float32 [batch, height, width, channels] -> logits.
        description: the float network inside.
        arrays: its weights.
        ranges: {node: (min, max)} of its activations.
        report: what the steps did, one line per result.
    """

    model: keras.Model
    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    ranges: dict[str, tuple[float, float]]
    report: tuple[str, ...]


def quantize_post_training(
    model: keras.Model,
    plan: PostTraining,
    *,
    batches: list[np.ndarray],
    input_range: tuple[float, float],
) -> PostTrained:
    """Quantizes a float network by the steps of a plan.

    Args:
        model: float network, flat Functional graph; not changed.
        plan: the steps.
        batches: calibration images, float32 [batch, height, width, channels], normalized.
        input_range: smallest and largest normalized pixel.

    Returns:
        The quantized network.

    Raises:
        ValueError: no images, images or weights that are not finite, images outside the input
            range, or a layer that has no integer form.
    """
    images = check_images(batches, input_range)
    network = _fold_batch_norms(model)
    if plan.ignore_empty:
        if (share := empty_share(images)) == 1:
            raise ValueError("every pixel of every calibration image is empty; give other images")
        network.report.append(f"{share:.0%} of the pixels are empty, excluded from statistics")
    if plan.equalize:
        _equalize(network, plan.relu6, images=images)
    if plan.absorb:
        _absorb(network, plan, images=images)
    by_node = _with_node_names(plan, network)
    source = build_model(network.description, all_outputs=True)
    unknown = scheme.unknown_layers(source)
    network.report += [f"stays float, unknown: {name} ({kind})" for name, kind in unknown.items()]
    by_node = dataclasses.replace(by_node, keep_float=(*by_node.keep_float, *unknown))
    ranges = _choose_ranges(network, source, plan=plan, images=images)
    reference = network.arrays
    if plan.adaround:
        _learn_rounding(network, by_node, images=images, ranges=ranges)
    if plan.bias is not BiasMethod.NONE:
        _correct_biases(network, by_node, images=images, ranges=ranges, reference=reference)
    if plan.keep_float:
        network.report.append(f"float32: {', '.join(plan.keep_float)}")
    if plan.int16:
        network.report.append(f"16-bit activations: {', '.join(plan.int16)}")
    quantized = quantize_aware(source, input_range, per_channel=plan.per_channel)
    fill_ranges(quantized, source, arrays=network.arrays, batches=[], known=ranges)
    for line in network.report:
        logging.info("%s", line)
    return PostTrained(
        quantized,
        network.description,
        arrays=network.arrays,
        ranges=ranges,
        report=tuple(network.report),
    )


@dataclasses.dataclass
class _Network:
    """The float network between two steps.

    Attributes:
        description: the network.
        arrays: its weights.
        statistics: {convolution: (mean, standard deviation) of its output}, float64 [channels],
            for convolutions that a batch norm followed.
        report: what the steps did, one line per result.
    """

    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    statistics: dict[str, tuple[np.ndarray, np.ndarray]]
    report: list[str]


def _fold_batch_norms(model: keras.Model) -> _Network:
    folding = fold_batch_norms(*graph_from_keras(model))
    report = [f"{len(folding.statistics)} batch norms folded"]
    if folding.left:
        report.append("batch norms not folded: " + ", ".join(folding.left))
    return _Network(
        folding.description, folding.arrays, statistics=folding.statistics, report=report
    )


def _equalize(network: _Network, relu6: Relu6, *, images: list[np.ndarray]) -> None:
    before = network.description, network.arrays
    done = equalize(*before, relu6=relu6)
    network.description, network.arrays = done.description, done.arrays
    network.statistics = {
        name: (mean / done.scales.get(name, 1.0), deviation / done.scales.get(name, 1.0))
        for name, (mean, deviation) in network.statistics.items()
    }
    network.report.append(
        f"{len(done.pairs)} pairs equalized in {done.iterations} rounds; "
        f"{len(done.limits)} ReLU6 got a limit per channel, {len(done.replaced)} became ReLU"
    )
    if done.replaced:
        cost = measure_replacement(before, (done.description, done.arrays), batches=images)
        same = "" if cost.agreement is None else f", arg max equal on {cost.agreement:.2%}"
        network.report.append(
            f"effect of ReLU instead of ReLU6: {cost.snr_db:.1f} dB signal-to-noise of the float "
            f"output{same}, on {sum(map(len, images))} calibration images"
        )
    network.report += [f"not equalized: {line}" for line in done.skipped]


def _absorb(network: _Network, plan: PostTraining, *, images: list[np.ndarray]) -> None:
    done = absorb_high_biases(
        network.description, network.arrays, batches=images, ignore_empty=plan.ignore_empty
    )
    network.arrays = done.arrays
    network.statistics = {
        name: (mean - done.absorbed.get(name, 0.0), deviation)
        for name, (mean, deviation) in network.statistics.items()
    }
    channels = sum(int((c > 0).sum()) for c in done.absorbed.values())
    network.report.append(
        f"high biases of {channels} channels in {len(done.absorbed)} layers absorbed"
    )
    network.report += [f"not absorbed: {line}" for line in done.skipped]


def _choose_ranges(
    network: _Network, source: keras.Model, *, plan: PostTraining, images: list[np.ndarray]
) -> dict[str, tuple[float, float]]:
    names = [name for name, part in scheme.plan_layers(source).items() if part.output]
    before = network.description, network.arrays
    histograms = observe(*before, names=names, batches=images, ignore_empty=plan.ignore_empty)
    ranges = {name: choose_range(histogram, plan.ranges) for name, histogram in histograms.items()}
    ranges |= _clipped_by_limits(network.description, ranges)
    network.report.append(f"{len(ranges)} activation ranges by {plan.ranges.value}")
    return ranges


def _learn_rounding(
    network: _Network,
    plan: PostTraining,
    *,
    images: list[np.ndarray],
    ranges: dict[str, tuple[float, float]],
) -> None:
    """Learns the rounding of all kernels except those that stay float."""
    kept = {
        key: value
        for key, value in network.arrays.items()
        if key.rpartition("/")[0] in plan.keep_float
    }
    learned = learn_rounding(
        network.description,
        network.arrays,
        batches=images,
        ranges=ranges,
        options=plan.adaround_options,
        per_channel=plan.per_channel,
        ignore_empty=plan.ignore_empty,
    )
    network.arrays = learned.arrays | kept
    changed, weights = (
        sum(getattr(layer, name) for layer in learned.layers) for name in ("changed", "weights")
    )
    network.report.append(
        f"rounding of {len(learned.layers)} layers learned, {changed} of {weights} changed"
    )
    network.report += [f"rounded to nearest: {line}" for line in learned.skipped]


def _correct_biases(
    network: _Network,
    plan: PostTraining,
    *,
    images: list[np.ndarray],
    ranges: dict[str, tuple[float, float]],
    reference: dict[str, np.ndarray],
) -> None:
    """Corrects biases; `reference` holds the weights before their rounding was learned."""
    description, arrays = network.description, network.arrays
    if plan.bias is BiasMethod.EMPIRICAL:
        few = [np.concatenate(images)[:BIAS_IMAGES]]
        done = correct_empirically(
            description,
            arrays,
            batches=few,
            ranges=ranges,
            per_channel=plan.per_channel,
            reference=reference,
            kept_float=plan.keep_float,
            ignore_empty=plan.ignore_empty,
        )
    else:
        done = correct_analytically(
            description,
            arrays,
            statistics=network.statistics,
            per_channel=plan.per_channel,
            reference=reference,
            kept_float=plan.keep_float,
        )
    network.arrays = done.arrays
    network.report.append(f"{len(done.corrections)} biases corrected ({plan.bias.value})")
    network.report += [f"bias not corrected: {line}" for line in done.skipped]


def _clipped_by_limits(
    description: NetworkGraph, ranges: dict[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """Returns narrower ranges for inputs of clipping nodes: clipped values need no levels.

    A ReLU that is fused into its input already has the only range of the two.
    """
    return {
        node.inputs[0]: ranges[node.name]
        for node in description.nodes
        if _clips(node)
        and node.name in ranges
        and node.inputs[0] in ranges
        and description.only_consumer(node.inputs[0]) is node
    }


def _clips(node: Node) -> bool:
    """Returns whether a node maps values outside its output range to the nearest end of it."""
    if node.kind == "relu":
        return not node.attributes.get("negative_slope")
    return node.kind in ("channel_limit", "clip")


def _with_node_names(plan: PostTraining, network: _Network) -> PostTraining:
    """Replaces layer names by the names of the nodes with the kernel: "stem_linear" for "stem".

    Raises:
        ValueError: no layer of that name, or one layer both float and 16-bit.
    """
    units = find_units(network.description, network.arrays)
    keep_float, int16 = (
        tuple(unit.layers[0] for unit in units_named(units, names))
        for names in (plan.keep_float, plan.int16)
    )
    return dataclasses.replace(plan, keep_float=keep_float, int16=int16)

"""Post-training quantization step by step, for those who cannot or will not retrain.

    float network -> fold batch norms -> equalize -> absorb high biases -> choose ranges
                  -> learn the rounding -> correct biases
                  -> fake-quantized network with exactly these numbers

Each step is optional and reported. The last network holds the final weights and ranges, so the
converter has nothing left to decide: the file computes what was planned here.
"""

import dataclasses
import difflib
import enum

import numpy as np
import tf_keras as keras
from absl import logging

from deeplab_tf.models.describe import describe
from deeplab_tf.models.imported import NetworkDescription, build_imported
from deeplab_tf.quantization import scheme
from deeplab_tf.quantization.absorption import absorb_high_biases
from deeplab_tf.quantization.adaround import learn_rounding
from deeplab_tf.quantization.apply import quantize_aware
from deeplab_tf.quantization.bias_correction import correct_analytically, correct_empirically
from deeplab_tf.quantization.equalization import Relu6, equalize
from deeplab_tf.quantization.folding import fold_batch_norms
from deeplab_tf.quantization.range_choice import RangeMethod, choose_range, observe
from deeplab_tf.quantization.ranges import fill_ranges
from deeplab_tf.quantization.rounding_options import AdaRoundOptions
from deeplab_tf.quantization.sensitivity import find_units

BIAS_IMAGES = 16
"""Photos that biases are corrected on at most: all are in memory at once."""


class BiasMethod(enum.Enum):
    """Where the shift of a layer's mean is taken from."""

    NONE = "none"
    """Nothing is corrected."""
    EMPIRICAL = "empirical"
    """Calibration photos."""
    ANALYTIC = "analytic"
    """Batch norms of the float network."""


@dataclasses.dataclass(frozen=True)
class PostTraining:
    """Which steps are taken.

    Attributes:
        per_channel: one weight scale a channel; False: one a kernel (legacy accelerators).
        equalize: whether neighbouring kernels are equalized.
        relu6: what becomes of ReLU6 then.
        absorb: whether high biases are absorbed.
        bias: how biases are corrected.
        ranges: how activation ranges are chosen.
        adaround: whether the rounding of weights is learned; minutes, and the photos in memory.
        keep_float: layers that compute in float32 (`sensitivity.find_units` names them).
        int16: layers that compute with 16-bit activations.
    """

    per_channel: bool = True
    equalize: bool = False
    relu6: Relu6 = Relu6.EXACT
    absorb: bool = False
    bias: BiasMethod = BiasMethod.NONE
    ranges: RangeMethod = RangeMethod.MIN_MAX
    adaround: bool = False
    keep_float: tuple[str, ...] = ()
    int16: tuple[str, ...] = ()

    def __post_init__(self):
        if both := sorted(set(self.keep_float) & set(self.int16)):
            raise ValueError(f"keep_float and int16 both name {', '.join(both)}; choose one")

    def to_json(self) -> dict:
        return {
            name: value.value if isinstance(value, enum.Enum) else value
            for name, value in dataclasses.asdict(self).items()
        }


@dataclasses.dataclass(frozen=True)
class PostTrained:
    """A network that is ready for the converter.

    Attributes:
        model: with fake-quantizers, image float32 [batch, height, width, channels] -> logits.
        description, arrays: the float network inside.
        ranges: {node: (min, max)} of its activations.
        report: what each step did, a line each.
    """

    model: keras.Model
    description: NetworkDescription
    arrays: dict[str, np.ndarray]
    ranges: dict[str, tuple[float, float]]
    report: tuple[str, ...]


def quantize_post_training(
    model: keras.Model,
    plan: PostTraining,
    batches: list[np.ndarray],
    input_range: tuple[float, float],
) -> PostTrained:
    """Takes the steps of a plan.

    Args:
        model: float network, flat Functional graph; not changed.
        plan: the steps.
        batches: calibration photos, float32 [batch, height, width, channels], normalized.
        input_range: smallest and largest normalized pixel.

    Raises:
        ValueError: no photos, weights that are not finite, a layer that has no integer form.
    """
    _check_photos(batches, input_range)
    folding = fold_batch_norms(*describe(model))
    report = [f"{len(folding.statistics)} batch norms folded"]
    if folding.left:
        report.append("batch norms left: " + ", ".join(folding.left))
    description, arrays, statistics = folding.description, folding.arrays, folding.statistics
    if plan.equalize:
        done = equalize(description, arrays, plan.relu6)
        description, arrays = done.description, done.arrays
        statistics = {
            name: tuple(value / done.scales.get(name, 1.0) for value in values)
            for name, values in statistics.items()
        }
        report.append(
            f"{len(done.pairs)} pairs equalized in {done.iterations} rounds; "
            f"{len(done.limits)} ReLU6 got a limit a channel, {len(done.replaced)} became ReLU"
        )
        report += [f"not equalized: {line}" for line in done.left]
    if plan.absorb:
        taken = absorb_high_biases(description, arrays, batches)
        arrays = taken.arrays
        channels = sum(count for count, _ in taken.absorbed.values())
        report.append(
            f"high biases of {channels} channels in {len(taken.absorbed)} layers absorbed"
        )
    _check_names(plan, description, arrays)
    source = build_imported(description)
    names = [name for name, part in scheme.plan_layers(source).items() if part.output]
    histograms = observe(description, arrays, names, batches)
    ranges = {name: choose_range(found, plan.ranges) for name, found in histograms.items()}
    ranges |= _cut_by_limits(description, ranges)
    report.append(f"{len(ranges)} activation ranges by {plan.ranges.value}")
    reference = arrays
    if plan.adaround:
        learned = learn_rounding(
            description, arrays, batches, ranges, AdaRoundOptions(), plan.per_channel
        )
        arrays = learned.arrays
        changed, weights = (
            sum(getattr(layer, name) for layer in learned.layers) for name in ("changed", "weights")
        )
        report.append(
            f"rounding of {len(learned.layers)} layers learned, {changed} of {weights} changed"
        )
        report += [f"rounded to nearest: {line}" for line in learned.left]
        arrays = arrays | {
            key: reference[key] for key in arrays if key.rpartition("/")[0] in plan.keep_float
        }
    corrected = None
    if plan.bias is BiasMethod.EMPIRICAL:
        photos = _first(batches, BIAS_IMAGES)
        corrected = correct_empirically(
            description, arrays, photos, ranges, plan.per_channel, reference, plan.keep_float
        )
    elif plan.bias is BiasMethod.ANALYTIC:
        corrected = correct_analytically(
            description, arrays, statistics, plan.per_channel, plan.keep_float
        )
    if corrected is not None:
        arrays = corrected.arrays
        report.append(f"{len(corrected.corrections)} biases corrected ({plan.bias.value})")
        report += [f"bias not corrected: {line}" for line in corrected.left]
    if plan.keep_float:
        report.append(f"float32: {', '.join(plan.keep_float)}")
    if plan.int16:
        report.append(f"16-bit activations: {', '.join(plan.int16)}")
    quantized = quantize_aware(source, input_range, plan.per_channel)
    fill_ranges(quantized, source, arrays, [], ranges)
    for line in report:
        logging.info("%s", line)
    return PostTrained(quantized, description, arrays, ranges, tuple(report))


def _cut_by_limits(description: NetworkDescription, ranges) -> dict[str, tuple[float, float]]:
    """Ranges in front of a limit a channel: what the limit cuts off needs no steps."""
    return {
        node.inputs[0]: ranges[node.name]
        for node in description.nodes
        if node.kind == "channel_limit"
        and node.name in ranges
        and node.inputs[0] in ranges
        and description.only_consumer(node.inputs[0]) is node
    }


def _check_photos(batches: list[np.ndarray], input_range: tuple[float, float]) -> None:
    """Refuses what calibrates nothing, warns of what calibrates little."""
    if not batches or not sum(len(batch) for batch in batches):
        raise ValueError("no calibration images; give at least one")
    low = min(float(batch.min()) for batch in batches)
    high = max(float(batch.max()) for batch in batches)
    slack = 0.01 * (input_range[1] - input_range[0])
    if not input_range[0] - slack <= low <= high <= input_range[1] + slack:
        raise ValueError(
            f"calibration images reach from {low:.4g} to {high:.4g}, the network takes "
            f"{input_range[0]:.4g} to {input_range[1]:.4g}; normalize them by its preprocessing"
        )


def _check_names(plan: PostTraining, description: NetworkDescription, arrays) -> None:
    known = [unit.name for unit in find_units(description, arrays)]
    for name in (*plan.keep_float, *plan.int16):
        if name not in known:
            near = difflib.get_close_matches(name, known, 3, 0.4) or known[:3]
            raise ValueError(
                f"no layer {name!r} computes on its own in the integer network; "
                f"near: {', '.join(near)}"
            )


def _first(batches: list[np.ndarray], count: int) -> list[np.ndarray]:
    return [np.concatenate(batches)[:count]]

"""Sets the ranges of fake-quantizers from calibration instead of tfmot's default.

tfmot initializes every range with +-6 and a decay of 0.999, which needs 1000 to 3000 steps to
vanish (tfmot issue 368).
"""

from collections.abc import Iterable

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.quantization.calibration.activation_ranges import with_zero
from deeplab_tf.quantization.qat.apply import load_float_weights, short_name, wrapped_layers
from deeplab_tf.quantization.qat.weight_ranges import fit_weight_ranges

_LOW_ENDS = ("output_min", "post_activation_min")
"""Names of the variables of an output's range; the second is tfmot's, of the last layer."""
_HIGH_ENDS = ("output_max", "post_activation_max")


def observe_ranges(
    model: keras.Model, names: list[str], *, batches: Iterable[np.ndarray | tf.Tensor]
) -> dict[str, tuple[float, float]]:
    """Averages the smallest and the largest value of each layer's output over batches.

    Args:
        model: float network.
        names: layers to observe.
        batches: iterable of float32 [batch, height, width, channels], normalized.

    Returns:
        {name: (min, max)}, with 0 inside each range as TFLite requires.

    Raises:
        ValueError: no batches.
    """
    outputs = keras.Model(model.inputs, [model.get_layer(name).output for name in names])

    @tf.function
    def extremes(batch: tf.Tensor) -> tf.Tensor:
        values = outputs(batch, training=False)
        values = values if len(names) > 1 else [values]  # Keras unpacks a list of one
        return tf.stack([[tf.reduce_min(value), tf.reduce_max(value)] for value in values])

    observed = [extremes(batch).numpy() for batch in batches]
    if not observed:
        raise ValueError("no calibration images; give at least one")
    mean = np.mean(observed, axis=0)
    return {
        name: with_zero(float(low), float(high))
        for name, (low, high) in zip(names, mean, strict=True)
    }


def learned_ranges(model: keras.Model) -> dict[str, tuple[float, float]]:
    """Reads the activation ranges of a quantization-aware network.

    Args:
        model: quantization-aware network.

    Returns:
        {float layer: (min, max)}.
    """
    ranges = {}
    for name, wrapper in wrapped_layers(model).items():
        ends = {short_name(variable): variable for variable in wrapper.weights}
        if "output_min" in ends:
            low, high = (float(ends[key].numpy()) for key in ("output_min", "output_max"))
            ranges[name] = (low, high)
    return ranges


def fill_ranges(
    model: keras.Model,
    source: keras.Model,
    *,
    arrays: dict[str, np.ndarray],
    batches: Iterable[np.ndarray | tf.Tensor],
    known: dict[str, tuple[float, float]] | None = None,
) -> int:
    """Loads float weights into both networks and sets all ranges of the quantization-aware one.

    Args:
        model: quantization-aware network; changed in place.
        source: the float network; changed in place.
        arrays: "layer/weight" arrays of the float network.
        batches: iterable of calibration images, float32 [batch, height, width, channels];
            not read if all ranges are known.
        known: {float layer: (min, max)} of ranges that are used without calibration.

    Returns:
        The number of known ranges.
    """
    for layer in source.layers:
        layer.set_weights([arrays[f"{layer.name}/{short_name(v)}"] for v in layer.weights])
    load_float_weights(model, arrays)
    with_range = {
        name: wrapper
        for name, wrapper in wrapped_layers(model).items()
        if any(short_name(variable) in _LOW_ENDS for variable in wrapper.weights)
    }
    ranges = {name: known[name] for name in with_range if known and name in known}
    count = len(ranges)
    if unknown := [name for name in with_range if name not in ranges]:
        ranges |= observe_ranges(source, unknown, batches=batches)
    for name, wrapper in with_range.items():
        for variable in wrapper.weights:
            if short_name(variable) in _LOW_ENDS:
                variable.assign(ranges[name][0])
            elif short_name(variable) in _HIGH_ENDS:
                variable.assign(ranges[name][1])
    fit_weight_ranges(model)
    return count

"""Ranges of the fake-quantizers from calibration, never from a default.

tfmot starts every range at +-6 with a decay of 0.999: 1000 to 3000 steps until it is forgotten
(tfmot issue 368).
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.quantization.calibration.activation_ranges import with_zero
from deeplab_tf.quantization.qat.apply import load_float_weights, short_name, wrapped_layers
from deeplab_tf.quantization.qat.weight_ranges import fit_weight_ranges


def observe_ranges(model: keras.Model, names: list[str], *, batches) -> dict[str, tuple]:
    """Mean over batches of the smallest and largest value of each layer's output.

    Args:
        model: float network.
        names: layers to watch.
        batches: iterable of float32 [batch, height, width, channels], normalized.

    Returns:
        {name: (min, max)}, with 0 inside each range as TFLite requires.

    Raises:
        ValueError: no batches.
    """
    taps = keras.Model(model.inputs, [model.get_layer(name).output for name in names])

    @tf.function
    def extremes(batch):
        values = taps(batch, training=False)
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
    """{float layer: (min, max)} of the activations of a quantization-aware network."""
    found = {}
    for name, wrapper in wrapped_layers(model).items():
        ends = {short_name(variable): variable for variable in wrapper.weights}
        if "output_min" in ends:
            found[name] = tuple(float(ends[key].numpy()) for key in ("output_min", "output_max"))
    return found


def fill_ranges(
    model: keras.Model,
    source: keras.Model,
    *,
    arrays: dict[str, np.ndarray],
    batches,
    known: dict[str, tuple[float, float]] | None = None,
) -> int:
    """Loads float weights into both networks and sets every range of the quantization-aware one.

    Args:
        model: quantization-aware network; changed in place.
        source: its float twin; changed in place.
        arrays: "layer/weight" arrays of the float network.
        batches: iterable of calibration images, float32 [batch, height, width, channels];
            not read where every range is known.
        known: {float layer: (min, max)} that is taken as it is.

    Returns:
        how many ranges were known.
    """
    for layer in source.layers:
        layer.set_weights([arrays[f"{layer.name}/{short_name(v)}"] for v in layer.weights])
    load_float_weights(model, arrays)
    watched = {
        name: wrapper
        for name, wrapper in wrapped_layers(model).items()
        if any(short_name(variable) == "output_min" for variable in wrapper.weights)
    }
    ranges = {name: known[name] for name in watched if known and name in known}
    count = len(ranges)
    if rest := [name for name in watched if name not in ranges]:
        ranges |= observe_ranges(source, rest, batches=batches)
    for name, wrapper in watched.items():
        for variable in wrapper.weights:
            if short_name(variable) in ("output_min", "output_max"):
                variable.assign(ranges[name][short_name(variable) == "output_max"])
    fit_weight_ranges(model)
    return count

"""Ranges of weights: the largest value of the kernel, with a minimum that the bias requires.

A bias is stored as int32 in steps of input scale x weight scale. A channel whose weights are zero
or nearly zero (pruned, or dead since training) would get a scale near zero, and its bias would be
silently clipped at 2^31 steps.
"""

import typing

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.kernels import LARGEST_INT8
from deeplab_tf.quantization.qat.apply import short_name, wrapped_layers
from deeplab_tf.quantization.qat.quantizers import (
    KERNEL_QUANTIZERS,
    FixedRangeQuantizer,
    PerTensorWeightQuantizer,
)

_LARGEST_BIAS = 2**30
"""Largest bias in steps, half of int32's range, to leave room for bias correction."""
_ACTIVATION_STEPS = 255


def fit_weight_ranges(model: keras.Model) -> None:
    """Sets the range of each kernel to its current values, symmetric.

    tfmot stores the ranges of the step before the last update; a file converted with them would
    clip the last update. Quantizers of tfmot's default scheme are not changed. A channel that its
    batch norm multiplies by 0 gets zero weights and a factor of 1 instead, because the converter
    cannot represent a scale of 0.

    Args:
        model: quantization-aware network with activation ranges; changed in place, with the same
            function.
    """
    for wrapper in wrapped_layers(model).values():
        for kernel, quantizer, variables in getattr(wrapper, "_weight_vars", []):
            if not isinstance(quantizer, KERNEL_QUANTIZERS):
                continue
            _replace_zero_factors(wrapper, kernel)
            channels_last = np.abs(quantizer.channels_last(kernel).numpy())
            largest = channels_last.reshape(-1, channels_last.shape[-1]).max(0)
            largest = np.maximum(largest, _smallest_ranges(wrapper))
            if isinstance(quantizer, PerTensorWeightQuantizer):
                largest = largest.max()
            variables["min_var"].assign(-largest)
            variables["max_var"].assign(largest)


def _smallest_ranges(wrapper: keras.layers.Layer) -> np.ndarray:
    """Returns the ranges with which biases have `_LARGEST_BIAS` steps, float32 [channels]."""
    factor, bias = _factor_and_bias(wrapper)
    step = _input_scale(wrapper) * np.abs(factor)
    needed = np.abs(bias) * LARGEST_INT8 / np.where(step > 0, step * _LARGEST_BIAS, np.inf)
    return needed.astype(np.float32)


def _factor_and_bias(wrapper: keras.layers.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Returns the converter's factor of the kernel and the bias that it stores."""
    bias = _bias(wrapper)
    norm = _batch_norm_after(wrapper)
    if norm is None:
        return np.ones(1), bias
    of_norm = {short_name(v): v.numpy().astype(np.float64) for v in norm.weights}
    mean, variance = of_norm["moving_mean"], of_norm["moving_variance"]
    factor = of_norm.get("gamma", 1.0) / np.sqrt(variance + norm.epsilon)
    return factor, (bias - mean) * factor + of_norm.get("beta", 0.0)


def _bias(wrapper: keras.layers.Layer) -> np.ndarray:
    bias = [v.numpy() for v in wrapper.layer.weights if short_name(v) == "bias"]
    return bias[0].astype(np.float64) if bias else np.zeros(1)


def _batch_norm_after(wrapper: keras.layers.Layer) -> keras.layers.BatchNormalization | None:
    """Returns the batch norm that the converter folds into a layer, if any."""
    followers = [node.outbound_layer for node in wrapper.outbound_nodes]
    inner = getattr(followers[0], "layer", None) if len(followers) == 1 else None
    return inner if isinstance(inner, keras.layers.BatchNormalization) else None


def _replace_zero_factors(wrapper: keras.layers.Layer, kernel: tf.Variable) -> None:
    """Replaces factors 0 of the following batch norm by zero weights and a factor of 1."""
    norm = _batch_norm_after(wrapper)
    if norm is None or norm.gamma is None:
        return
    gamma, mean = norm.gamma.numpy(), norm.moving_mean.numpy()
    dead = gamma == 0
    if not dead.any():
        return
    along_kernel = dead
    if isinstance(wrapper.layer, keras.layers.DepthwiseConv2D):
        along_kernel = dead.reshape(kernel.shape[2:])
    elif isinstance(wrapper.layer, keras.layers.Conv2DTranspose):
        along_kernel = dead[:, None]
    kernel.assign(np.where(along_kernel, 0, kernel.numpy()))
    norm.gamma.assign(np.where(dead, 1, gamma))
    norm.moving_mean.assign(np.where(dead, _bias(wrapper), mean))


def _input_scale(wrapper: keras.layers.Layer) -> float:
    """Returns the scale of a layer's input, from the nearest range before it; 0 if none."""
    layer = wrapper
    while inbound := layer.inbound_nodes:
        layer = next(iter(_as_list(inbound[0].inbound_layers)), None)
        if layer is None:
            return 0.0
        if ends := _activation_range(layer):
            return (ends[1] - ends[0]) / _ACTIVATION_STEPS
    return 0.0


def _as_list(layers: typing.Any) -> list:
    return layers if isinstance(layers, list) else [layers]


def _activation_range(layer: keras.layers.Layer) -> tuple[float, float] | None:
    """Returns the range of a layer's output, extended to 0; None without a range."""
    quantizer = getattr(layer, "quantizer", None)
    if isinstance(quantizer, FixedRangeQuantizer):
        return quantizer.range_min, quantizer.range_max
    ends = {short_name(variable): variable for variable in layer.weights}
    if "output_min" not in ends:
        return None
    low, high = float(ends["output_min"].numpy()), float(ends["output_max"].numpy())
    return min(low, 0.0), max(high, 0.0)

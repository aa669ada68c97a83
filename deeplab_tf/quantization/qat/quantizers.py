"""Fake-quantizers that are missing in tfmot 0.8.1 or wrong there for depthwise convolutions.

Jacob et al. 2018, arXiv:1712.05877: real = scale * (quantized - zero_point); weights symmetric
per channel in a narrow range (-127..127), activations asymmetric per tensor.
"""

import typing

import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from deeplab_tf.graph.kernels import LARGEST_INT8

_Weights = dict[str, tf.Variable]
"""Variables of a quantizer by name: min_var and max_var."""


class ConvolutionWeightQuantizer(quantizers.LastValueQuantizer):
    """Per output channel: kernel [height, width, in, out], ranges [out]."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

    def get_config(self) -> dict[str, typing.Any]:
        """Returns the arguments of the constructor."""
        return {}

    @staticmethod
    def channels_last(kernel: tf.Tensor) -> tf.Tensor:
        """Returns the kernel with the axis of its ranges last."""
        return kernel


class DepthwiseWeightQuantizer(ConvolutionWeightQuantizer):
    """Per channel: kernel [height, width, in, multiplier], ranges [in * multiplier].

    tfmot uses one range per element of the last axis, which is the multiplier, so a depthwise
    kernel gets one range for all channels, while the converter quantizes it per channel.
    """

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: keras.layers.Layer) -> _Weights:
        """Adds the ranges to a layer, one per channel."""
        channels = tensor_shape[-2] * tensor_shape[-1]
        return self._add_range_weights(layer, name, True, tf.TensorShape([channels]))

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: _Weights, **kwargs: typing.Any
    ) -> tf.Tensor:
        """Fake-quantizes a tensor; gradients pass."""
        quantized = super().__call__(self.channels_last(inputs), training, weights, **kwargs)
        return tf.reshape(quantized, inputs.shape)

    @staticmethod
    def channels_last(kernel: tf.Tensor) -> tf.Tensor:
        """Returns the kernel as [height, width, 1, in * multiplier]."""
        height, width, channels, multiplier = kernel.shape
        return tf.reshape(kernel, [height, width, 1, channels * multiplier])


class PerTensorWeightQuantizer(quantizers.LastValueQuantizer):
    """One range for all channels of any kernel, as legacy accelerators require."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)

    def get_config(self) -> dict[str, typing.Any]:
        """Returns the arguments of the constructor."""
        return {}

    @staticmethod
    def channels_last(kernel: tf.Tensor) -> tf.Tensor:
        """Returns the kernel unchanged."""
        return kernel


class TransposeWeightQuantizer(ConvolutionWeightQuantizer):
    """Per output channel: kernel [height, width, out, in], ranges [out]."""

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: keras.layers.Layer) -> _Weights:
        """Adds the ranges to a layer, one per output channel."""
        return self._add_range_weights(layer, name, True, tf.TensorShape([tensor_shape[2]]))

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: _Weights, **kwargs: typing.Any
    ) -> tf.Tensor:
        """Fake-quantizes a tensor; gradients pass."""
        if training:  # the ranges follow the kernel, gradients pass
            return self.channels_last(super().__call__(self.channels_last(inputs), True, weights))
        # The converter cannot transpose a kernel that is fake-quantized per channel. Weights that
        # are on the grid already are rounded to the same grid by the converter itself.
        largest = weights["max_var"][:, tf.newaxis]
        scale = tf.where(largest > 0, largest, LARGEST_INT8) / LARGEST_INT8
        return tf.clip_by_value(tf.round(inputs / scale), -LARGEST_INT8, LARGEST_INT8) * scale

    @staticmethod
    def channels_last(kernel: tf.Tensor) -> tf.Tensor:
        """Swaps the axes of input and output channels."""
        return tf.transpose(kernel, [0, 1, 3, 2])


class PerTensorTransposeWeightQuantizer(PerTensorWeightQuantizer):
    """One range: kernel [height, width, out, in]."""

    channels_last = staticmethod(TransposeWeightQuantizer.channels_last)


KERNEL_QUANTIZERS = (ConvolutionWeightQuantizer, DepthwiseWeightQuantizer, PerTensorWeightQuantizer)
"""Quantizers whose ranges follow the kernel."""


class FixedRangeQuantizer(quantizers.Quantizer):
    """Per tensor, with a fixed range.

    Args:
        range_min: lower end of the range.
        range_max: upper end of the range.
    """

    def __init__(self, range_min: float, range_max: float) -> None:
        self.range_min, self.range_max = range_min, range_max

    def build(self, tensor_shape: tf.TensorShape, name: str, layer: keras.layers.Layer) -> _Weights:
        """Adds no variables: the range is fixed."""
        return {}

    def __call__(
        self, inputs: tf.Tensor, training: bool, weights: _Weights, **kwargs: typing.Any
    ) -> tf.Tensor:
        """Fake-quantizes a tensor; gradients pass."""
        return tf.quantization.fake_quant_with_min_max_args(
            inputs, self.range_min, self.range_max, num_bits=8, narrow_range=False
        )

    def get_config(self) -> dict[str, typing.Any]:
        """Returns the arguments of the constructor."""
        return {"range_min": self.range_min, "range_max": self.range_max}


def activation_quantizer() -> quantizers.MovingAverageQuantizer:
    """Builds the quantizer of activations: per tensor, asymmetric, moving-average ranges."""
    return quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )

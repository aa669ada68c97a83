"""Fake-quantizers that tfmot 0.8.1 lacks or has wrong for depthwise networks.

Jacob et al. 2018, arXiv:1712.05877: real = scale * (quantized - zero_point); weights symmetric
per channel in a narrow range (-127..127), activations asymmetric per tensor.
"""

import tensorflow as tf
from tensorflow_model_optimization.python.core.quantization.keras import quantizers

from deeplab_tf.graph.kernels import LARGEST_INT8


class ConvolutionWeightQuantizer(quantizers.LastValueQuantizer):
    """Per output channel: kernel [height, width, in, out], ranges [out]."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=True, symmetric=True, narrow_range=True)

    def get_config(self):
        return {}

    @staticmethod
    def channels_last(kernel):
        """The kernel with the axis of its ranges last."""
        return kernel


class DepthwiseWeightQuantizer(ConvolutionWeightQuantizer):
    """Per channel: kernel [height, width, in, multiplier], ranges [in * multiplier].

    tfmot takes the ranges from the last axis, which is the multiplier, so that a depthwise
    kernel gets one range for all channels, while the converter's own path is per channel.
    """

    def build(self, tensor_shape, name, layer):
        channels = tensor_shape[-2] * tensor_shape[-1]
        return self._add_range_weights(layer, name, True, tf.TensorShape([channels]))

    def __call__(self, inputs, training, weights, **kwargs):
        quantized = super().__call__(self.channels_last(inputs), training, weights, **kwargs)
        return tf.reshape(quantized, inputs.shape)

    @staticmethod
    def channels_last(kernel):
        height, width, channels, multiplier = kernel.shape
        return tf.reshape(kernel, [height, width, 1, channels * multiplier])


class PerTensorWeightQuantizer(quantizers.LastValueQuantizer):
    """One range for all channels of any kernel: what legacy accelerators need."""

    def __init__(self) -> None:
        super().__init__(num_bits=8, per_axis=False, symmetric=True, narrow_range=True)

    def get_config(self):
        return {}

    @staticmethod
    def channels_last(kernel):
        return kernel


class TransposeWeightQuantizer(ConvolutionWeightQuantizer):
    """Per output channel: kernel [height, width, out, in], ranges [out]."""

    def build(self, tensor_shape, name, layer):
        return self._add_range_weights(layer, name, True, tf.TensorShape([tensor_shape[2]]))

    def __call__(self, inputs, training, weights, **kwargs):
        if training:  # the ranges follow the kernel, gradients pass
            return self.channels_last(super().__call__(self.channels_last(inputs), True, weights))
        # The converter refuses to transpose what is fake-quantized per channel. Weights that lie
        # on the grid already it rounds to the same grid by itself.
        largest = weights["max_var"][:, tf.newaxis]
        scale = tf.where(largest > 0, largest, LARGEST_INT8) / LARGEST_INT8
        return tf.clip_by_value(tf.round(inputs / scale), -LARGEST_INT8, LARGEST_INT8) * scale

    @staticmethod
    def channels_last(kernel):
        return tf.transpose(kernel, [0, 1, 3, 2])


class PerTensorTransposeWeightQuantizer(PerTensorWeightQuantizer):
    """One range: kernel [height, width, out, in]."""

    channels_last = staticmethod(TransposeWeightQuantizer.channels_last)


KERNEL_QUANTIZERS = (ConvolutionWeightQuantizer, DepthwiseWeightQuantizer, PerTensorWeightQuantizer)
"""Those whose ranges follow the kernel."""


class FixedRangeQuantizer(quantizers.Quantizer):
    """Per tensor, over a range that is known and never learned."""

    def __init__(self, range_min: float, range_max: float) -> None:
        self.range_min, self.range_max = range_min, range_max

    def build(self, tensor_shape, name, layer):
        return {}

    def __call__(self, inputs, training, weights, **kwargs):
        return tf.quantization.fake_quant_with_min_max_args(
            inputs, self.range_min, self.range_max, num_bits=8, narrow_range=False
        )

    def get_config(self):
        return {"range_min": self.range_min, "range_max": self.range_max}


def activation_quantizer() -> quantizers.MovingAverageQuantizer:
    """Per tensor, asymmetric, ranges a moving average of what flows in training."""
    return quantizers.MovingAverageQuantizer(
        num_bits=8, per_axis=False, symmetric=False, narrow_range=False
    )

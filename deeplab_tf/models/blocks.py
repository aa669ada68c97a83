"""Convolution blocks that every network here is made of."""

import dataclasses

import tf_keras as keras

layers = keras.layers


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Settings shared by every batch normalization of a network.

    Attributes:
        momentum: of the moving statistics. Keras' default 0.99 needs thousands of steps to
            forget its start: a few hundred steps with it gave mIoU 0.03 at a good loss.
        epsilon: 1e-3 as in MobileNetV2.
    """

    momentum: float = 0.95
    epsilon: float = 1e-3

    def __call__(self, x, name: str):
        return layers.BatchNormalization(momentum=self.momentum, epsilon=self.epsilon, name=name)(x)


def relu6(x, name: str):
    return layers.ReLU(6.0, name=name)(x)


def conv_bn(x, filters: int, *, batch_norm: BatchNorm, name: str, kernel_size=1, strides=1):
    """Convolution without bias, batch norm, ReLU6; layers `<name>_conv`, `_bn`, `_relu`."""
    x = layers.Conv2D(
        filters, kernel_size, strides=strides, padding="same", use_bias=False, name=f"{name}_conv"
    )(x)
    return relu6(batch_norm(x, f"{name}_bn"), f"{name}_relu")


def separable_conv_bn(x, filters: int, *, batch_norm: BatchNorm, name: str, rate: int = 1):
    """Atrous 3x3 depthwise then 1x1, each with batch norm and ReLU6 (DeepLabv3+, section 3.1)."""
    x = layers.DepthwiseConv2D(
        3, padding="same", dilation_rate=rate, use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = relu6(batch_norm(x, f"{name}_depthwise_bn"), f"{name}_depthwise_relu")
    return conv_bn(x, filters, batch_norm=batch_norm, name=f"{name}_pointwise")


def resize_like(x, reference, *, name: str):
    """Bilinear resize, half-pixel centres, to the height and width of `reference`."""
    _, height, width, _ = reference.shape
    return layers.Resizing(height, width, interpolation="bilinear", name=name)(x)

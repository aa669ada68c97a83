"""The contracting path of the classic UNet.

Ronneberger et al. 2015, U-Net, arXiv:1505.04597, figure 1: pairs of 3x3 convolutions, 64 to 1024
channels. With "same" padding and batch norm after each convolution, as is usual today.
"""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, StrideTracker
from deeplab_tf.models.backbones.mobilenet_v2 import scaled_channels
from deeplab_tf.models.blocks import BatchNorm

layers = keras.layers

_CHANNELS = (64, 128, 256, 512, 1024)
_EPSILON = 1e-3


def build_unet_encoder(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Adds the feature extractor.

    Args:
        image: Keras tensor, float32 [batch, height, width, channels].
        form: how it is built; output stride 8 or 16, 16 is published.

    Returns:
        {1: 64 * multiplier channels, 2: 128, 4: 256, 8: 512, 16: 1024}.

    Raises:
        ValueError: output stride 32.
    """
    if form.output_stride > 16:
        raise ValueError(f"unet_encoder ends at stride 16; got output_stride {form.output_stride}")
    tracker = StrideTracker(form)
    batch_norm = form.batch_norm(_EPSILON)
    x, features = image, {}
    for level, channels in enumerate(_CHANNELS):
        if level:
            strides = tracker.step(2).strides
            if strides != (1, 1):
                x = layers.MaxPooling2D(strides, name=f"down{level}_pool")(x)
        filters = scaled_channels(channels, form.width_multiplier)
        x = double_conv(x, filters, batch_norm=batch_norm, name=f"down{level}", rate=tracker.rate)
        features[tracker.stride] = x
    return features


def double_conv(
    x: tf.Tensor, filters: int, *, batch_norm: BatchNorm, name: str, rate: int = 1
) -> tf.Tensor:
    """Adds two 3x3 convolutions without bias, each with batch norm and ReLU."""
    for index in range(2):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            dilation_rate=rate,
            use_bias=False,
            name=f"{name}_conv{index}",
        )(x)
        x = batch_norm(x, f"{name}_bn{index}")
        x = layers.ReLU(name=f"{name}_relu{index}")(x)
    return x

"""DeepLabV3+: backbone, atrous spatial pyramid pooling, decoder.

Chen et al. 2018, DeepLabv3+, arXiv:1802.02611. The slim pyramid (image pooling and one 1x1
branch) is that of the published mobile models.
"""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.models.blocks import BatchNorm, conv_bn, resize_like, separable_conv_bn
from deeplab_tf.models.config import Aspp, BackboneConfig, DeepLabConfig

layers = keras.layers

_LOW_LEVEL_STRIDE = 4
LOW_LEVEL_CHANNELS = 48
"""Number of channels after the reduction of the low-level features (DeepLabv3+, table 1)."""


def build_aspp(features: tf.Tensor, config: BackboneConfig, *, batch_norm: BatchNorm) -> tf.Tensor:
    """Adds atrous spatial pyramid pooling.

    Args:
        features: [batch, height, width, channels] at the output stride.
        config: what to build.
        batch_norm: settings of the batch norms.

    Returns:
        [batch, height, width, config.aspp_channels], or `features` unchanged for Aspp.NONE.
    """
    if config.aspp is Aspp.NONE:
        return features
    channels = config.aspp_channels
    pooled = layers.GlobalAveragePooling2D(keepdims=True, name="aspp_pooling")(features)
    pooled = conv_bn(pooled, channels, batch_norm=batch_norm, name="aspp_pooling")
    branches = [
        resize_like(pooled, features, name="aspp_pooling_resize"),
        conv_bn(features, channels, batch_norm=batch_norm, name="aspp_1x1"),
    ]
    if config.aspp is Aspp.ATROUS:
        branches += [
            separable_conv_bn(
                features, channels, batch_norm=batch_norm, name=f"aspp_rate{rate}", rate=rate
            )
            for rate in config.atrous_rates
        ]
    joined = layers.Concatenate(name="aspp_concat")(branches)
    return conv_bn(joined, channels, batch_norm=batch_norm, name="aspp_project")


def build_decoder(
    features: tf.Tensor,
    low_level_features: tf.Tensor,
    *,
    config: DeepLabConfig,
    batch_norm: BatchNorm,
) -> tf.Tensor:
    """Adds the decoder of DeepLabv3+.

    Args:
        features: [batch, height / output_stride, width / output_stride, channels].
        low_level_features: [batch, height / 4, width / 4, channels].
        config: what to build.
        batch_norm: settings of the batch norms.

    Returns:
        [batch, height / 4, width / 4, config.decoder_channels].
    """
    low_level = conv_bn(
        low_level_features, LOW_LEVEL_CHANNELS, batch_norm=batch_norm, name="decoder_low_level"
    )
    upsampled = resize_like(features, low_level, name="decoder_upsample")
    x = layers.Concatenate(name="decoder_concat")([upsampled, low_level])
    for index in range(2):
        x = separable_conv_bn(
            x, config.decoder_channels, batch_norm=batch_norm, name=f"decoder_conv{index}"
        )
    return x


def build_deeplab(config: DeepLabConfig, size: tuple[int, int]) -> keras.Model:
    """Builds the network up to logits at its own resolution (stride 4 with decoder).

    Upsampling to full size is not part of it: the loss does it in training, the export head
    (`export.conversion.head`) in a file.

    Args:
        config: what to build.
        size: (height, width) of the input, multiples of the output stride, or one more.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes].

    Raises:
        ValueError: another size.
    """
    height, width = size
    config.check_size(height, width)
    batch_norm = BatchNorm(config.batch_norm_momentum)
    image = keras.Input((height, width, config.channels), name="image")
    features = build_backbone(config.backbone, image, form=config.backbone_form())
    x = build_aspp(features[config.output_stride], config, batch_norm=batch_norm)
    if config.decoder:
        x = build_decoder(x, features[_LOW_LEVEL_STRIDE], config=config, batch_norm=batch_norm)
    logits = layers.Conv2D(config.num_classes, 1, name="logits")(x)
    return keras.Model(image, logits, name="deeplab")

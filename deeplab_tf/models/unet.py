"""UNet over any backbone.

Ronneberger et al. 2015, U-Net, arXiv:1505.04597. Over `unet_encoder` with decoder_channels=512 and
no pyramid it is the classic network. The paper's "upsampling of the feature map followed by
a 2x2 convolution" is a bilinear resize and a convolution: accelerators lack transposed
convolutions.
"""

import tf_keras as keras

from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.models.backbones.unet_encoder import double_conv
from deeplab_tf.models.blocks import BatchNorm, resize_like
from deeplab_tf.models.config import UNetConfig
from deeplab_tf.models.deeplab import build_aspp

layers = keras.layers

_PLAN_STRIDE = 8
"""Stride at which the expanding path has `decoder_channels`; at half the stride it has half."""


def build_unet(config: UNetConfig, size: tuple[int, int]) -> keras.Model:
    """Builds the network up to logits at the finest resolution of its backbone.

    That is stride 1 over `unet_encoder` and `vgg11_bn`, 2 over the others.

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
    *skips, deepest = sorted(features)
    x = build_aspp(features[deepest], config, batch_norm=batch_norm)
    for stride in reversed(skips):
        filters = max(1, config.decoder_channels * stride // _PLAN_STRIDE)
        name = f"up{stride}"
        x = resize_like(x, features[stride], name=f"{name}_resize")
        x = layers.Conv2D(filters, 2, padding="same", name=f"{name}_conv")(x)
        x = layers.Concatenate(name=f"{name}_concat")([features[stride], x])
        x = double_conv(x, filters, batch_norm=batch_norm, name=name.replace("up", "join"))
    logits = layers.Conv2D(config.num_classes, 1, name="logits")(x)
    return keras.Model(image, logits, name="unet")

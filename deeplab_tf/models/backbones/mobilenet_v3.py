"""MobileNetV3-Large in its quantization-friendly form, as a segmentation backbone.

Howard et al. 2019, MobileNetV3, arXiv:1905.02244, table 1, in the form that its authors published
as "large minimalistic": no squeeze-and-excite, no hard-swish, 3x3 kernels; ReLU6 in place of ReLU.
Layer names follow Keras Applications with "_" for "/", so that the weights of
`MobileNetV3Large(minimalistic=True)` load by name. The classifier's 1280 channels are omitted.
"""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, Step, StrideTracker
from deeplab_tf.models.backbones.mobilenet_v2 import scaled_channels
from deeplab_tf.models.blocks import BatchNorm, relu6

layers = keras.layers

# expansion, output channels, stride
_TABLE = (
    (1, 16, 1),
    (4, 24, 2),
    (3, 24, 1),
    (3, 40, 2),
    (3, 40, 1),
    (3, 40, 1),
    (6, 80, 2),
    (2.5, 80, 1),
    (2.3, 80, 1),
    (2.3, 80, 1),
    (6, 112, 1),
    (6, 112, 1),
    (6, 160, 2),
    (6, 160, 1),
    (6, 160, 1),
)
_FIRST_CHANNELS = 16
_LAST_EXPANSION = 6
_EPSILON = 1e-3


def build_mobilenet_v3_large(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Adds the feature extractor.

    Args:
        image: Keras tensor, float32 [batch, height, width, channels].
        form: how it is built; width multiplier 0.25 to 1.4, published are 0.75 and 1.

    Returns:
        {2: 16 * multiplier channels, 4: 24, 8: 40, 16: 112, 32: 160}; the last stride has 960.
    """
    tracker = StrideTracker(form)
    batch_norm = form.batch_norm(_EPSILON)
    x = layers.Conv2D(
        _FIRST_CHANNELS,  # of every width, as published
        3,
        strides=tracker.step(2).strides,
        padding="same",
        use_bias=False,
        name="Conv",
    )(image)
    x = relu6(batch_norm(x, "Conv_BatchNorm"), "Conv_relu")
    features = {}
    for block, (expansion, channels, stride) in enumerate(_TABLE):
        filters = scaled_channels(channels, form.width_multiplier)
        x = _inverted_residual(
            x,
            expansion,
            filters=filters,
            step=tracker.step(stride),
            batch_norm=batch_norm,
            block=block,
        )
        features[tracker.stride] = x
    filters = scaled_channels(x.shape[-1] * _LAST_EXPANSION, 1)
    x = layers.Conv2D(filters, 1, use_bias=False, name="Conv_1")(x)
    features[tracker.stride] = relu6(batch_norm(x, "Conv_1_BatchNorm"), "Conv_1_relu")
    return features


def _inverted_residual(
    x: tf.Tensor,
    expansion: float,
    *,
    filters: int,
    step: Step,
    batch_norm: BatchNorm,
    block: int,
) -> tf.Tensor:
    prefix = f"expanded_conv_{block}_" if block else "expanded_conv_"
    shortcut = x
    in_channels = x.shape[-1]
    if block:
        wide = scaled_channels(in_channels * expansion, 1)
        x = layers.Conv2D(wide, 1, use_bias=False, name=f"{prefix}expand")(x)
        x = relu6(batch_norm(x, f"{prefix}expand_BatchNorm"), f"{prefix}expand_relu")
    x = layers.DepthwiseConv2D(
        3,
        strides=step.strides,
        dilation_rate=step.rate,
        padding="same",
        use_bias=False,
        name=f"{prefix}depthwise",
    )(x)
    x = relu6(batch_norm(x, f"{prefix}depthwise_BatchNorm"), f"{prefix}depthwise_relu")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{prefix}project")(x)
    x = batch_norm(x, f"{prefix}project_BatchNorm")
    if step.strides == (1, 1) and in_channels == filters:
        x = layers.Add(name=f"{prefix}Add")([shortcut, x])
    return x

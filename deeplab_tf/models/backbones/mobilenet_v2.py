"""MobileNetV2 as a segmentation backbone.

Sandler et al. 2018, MobileNetV2, arXiv:1801.04381, table 2; atrous rates in place of strides
as in Chen et al. 2017, DeepLabv3, arXiv:1706.05587. Layer names and padding follow Keras
Applications, so that its weights load by name ("same" padding equals its explicit padding for
even and odd sizes).
"""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, Step, StrideTracker
from deeplab_tf.models.blocks import BatchNorm, relu6

layers = keras.layers

# expansion, output channels, repeats, stride of the first repeat
_TABLE = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
_FIRST_CHANNELS = 32
_EPSILON = 1e-3


def scaled_channels(channels: float, width_multiplier: float, *, divisor: int = 8) -> int:
    """Returns channels * multiplier, rounded to a multiple of `divisor`, but to at least 90%."""
    scaled = channels * width_multiplier
    rounded = max(divisor, int(scaled + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * scaled else rounded


def build_mobilenet_v2(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Adds the feature extractor.

    Args:
        image: Keras tensor, float32 [batch, height, width, channels].
        form: how it is built; width multiplier 0.25 to 1.4.

    Returns:
        {2: 16 * multiplier channels, 4: 24, 8: 32, 16: 96, 32: 320}; the last stride has 320.
    """
    tracker = StrideTracker(form)
    batch_norm = form.batch_norm(_EPSILON)
    x = layers.Conv2D(
        scaled_channels(_FIRST_CHANNELS, form.width_multiplier),
        3,
        strides=tracker.step(2).strides,
        padding="same",
        use_bias=False,
        name="Conv1",
    )(image)
    x = relu6(batch_norm(x, "bn_Conv1"), "Conv1_relu")
    features = {}
    block = 0
    for expansion, channels, repeats, first_stride in _TABLE:
        filters = scaled_channels(channels, form.width_multiplier)
        for repeat in range(repeats):
            step = tracker.step(first_stride if repeat == 0 else 1)
            x = _inverted_residual(
                x, expansion, filters=filters, step=step, batch_norm=batch_norm, block=block
            )
            block += 1
        features[tracker.stride] = x
    return features


def _inverted_residual(
    x: tf.Tensor,
    expansion: int,
    *,
    filters: int,
    step: Step,
    batch_norm: BatchNorm,
    block: int,
) -> tf.Tensor:
    prefix = f"block_{block}_" if block else "expanded_conv_"
    shortcut = x
    in_channels = x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(in_channels * expansion, 1, use_bias=False, name=f"{prefix}expand")(x)
        x = relu6(batch_norm(x, f"{prefix}expand_BN"), f"{prefix}expand_relu")
    x = layers.DepthwiseConv2D(
        3,
        strides=step.strides,
        dilation_rate=step.rate,
        padding="same",
        use_bias=False,
        name=f"{prefix}depthwise",
    )(x)
    x = relu6(batch_norm(x, f"{prefix}depthwise_BN"), f"{prefix}depthwise_relu")
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{prefix}project")(x)
    x = batch_norm(x, f"{prefix}project_BN")
    if step.strides == (1, 1) and in_channels == filters:
        x = layers.Add(name=f"{prefix}add")([shortcut, x])
    return x

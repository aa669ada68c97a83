"""VGG11 with batch norm as a segmentation backbone.

Simonyan & Zisserman 2014, arXiv:1409.1556, configuration A; batch norm and biases as in
torchvision's `vgg11_bn`, whose `features` these convolutions are, in order.
"""

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, StrideTracker

layers = keras.layers

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_EPSILON = 1e-5


def build_vgg11_bn(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Adds the feature extractor.

    Args:
        image: Keras tensor, float32 [batch, height, width, channels].
        form: how it is built.

    Returns:
        {1: 64 channels, 2: 128, 4: 256, 8: 512, 16: 512, 32: 512}.
    """
    tracker = StrideTracker(form)
    batch_norm = form.batch_norm(_EPSILON)
    x, features = image, {}
    for stage, widths in enumerate(_STAGES, 1):
        for index, filters in enumerate(widths, 1):
            name = f"block{stage}_conv{index}"
            rate = tracker.step().rate
            x = layers.Conv2D(filters, 3, padding="same", dilation_rate=rate, name=name)(x)
            x = batch_norm(x, f"block{stage}_bn{index}")
            x = layers.ReLU(name=f"block{stage}_relu{index}")(x)
        features[tracker.stride] = x
        x = _pool(x, tracker, name=f"block{stage}_pool")
    features.setdefault(tracker.stride, x)
    return features


def _pool(x: tf.Tensor, tracker: StrideTracker, *, name: str) -> tf.Tensor:
    """Adds a max pool by 2, or nothing after the output stride."""
    strides = tracker.step(2).strides
    return x if strides == (1, 1) else layers.MaxPooling2D(strides, name=name)(x)

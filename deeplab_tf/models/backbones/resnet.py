"""ResNet-18, -50 and -101 as segmentation backbones.

He et al. 2015, deep residual learning, arXiv:1512.03385, table 1. The stride of a bottleneck is
in its 3x3 convolution, as in torchvision ("v1.5"), or, in those named `_v1`, in its first 1x1
convolution as in the paper and Keras Applications. Layers have torchvision's names with "_" for "."
(`layer1.0.conv1` is `layer1_0_conv1`). Padding is torchvision's: k // 2 on each side, which for a
stride of 2 is not "same".
"""

import collections.abc

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, Step, StrideTracker
from deeplab_tf.models.blocks import BatchNorm

layers = keras.layers

_EPSILON = 1e-5
_STAGE_CHANNELS = (64, 128, 256, 512)
_BOTTLENECK_EXPANSION = 4


def build_resnet18(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Returns {2: 64 channels, 4: 64, 8: 128, 16: 256, 32: 512}; the last stride has 512."""
    return _build(image, form, repeats=(2, 2, 2, 2), block=_basic_block)


def build_resnet50(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Returns {2: 64 channels, 4: 256, 8: 512, 16: 1024, 32: 2048}; the last stride has 2048."""
    return _build(image, form, repeats=(3, 4, 6, 3), block=_bottleneck)


def build_resnet101(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Returns {2: 64 channels, 4: 256, 8: 512, 16: 1024, 32: 2048}; the last stride has 2048."""
    return _build(image, form, repeats=(3, 4, 23, 3), block=_bottleneck)


def build_resnet50_v1(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """As ResNet-50, with the strides in 1x1 convolutions."""
    return _build(image, form, repeats=(3, 4, 6, 3), block=_bottleneck_v1)


def build_resnet101_v1(image: tf.Tensor, form: BackboneForm) -> dict[int, tf.Tensor]:
    """As ResNet-101, with the strides in 1x1 convolutions."""
    return _build(image, form, repeats=(3, 4, 23, 3), block=_bottleneck_v1)


def _build(
    image: tf.Tensor,
    form: BackboneForm,
    *,
    repeats: tuple[int, ...],
    block: collections.abc.Callable[..., tf.Tensor],
) -> dict[int, tf.Tensor]:
    """Adds the feature extractor; `repeats` are the blocks of each stage."""
    tracker = StrideTracker(form)
    batch_norm = form.batch_norm(_EPSILON)
    x = _conv(image, 64, kernel_size=7, step=tracker.step(2), name="conv1")
    x = layers.ReLU(name="relu")(batch_norm(x, "bn1"))
    features = {tracker.stride: x}
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # outputs of a ReLU are never below 0
    x = layers.MaxPooling2D(3, strides=tracker.step(2).strides, name="maxpool")(x)
    for stage, (channels, count) in enumerate(zip(_STAGE_CHANNELS, repeats, strict=True), 1):
        for index in range(count):
            step = tracker.step(2 if stage > 1 and index == 0 else 1)
            x = block(
                x,
                channels,
                step=step,
                tracker=tracker,
                batch_norm=batch_norm,
                name=f"layer{stage}_{index}",
            )
        features[tracker.stride] = x
    return features


def _conv(x: tf.Tensor, filters: int, *, kernel_size: int, step: Step, name: str) -> tf.Tensor:
    """Adds a convolution without bias, padded by (kernel_size - 1) / 2 on every side."""
    padding = "same"
    if max(step.strides) > 1 and kernel_size > 1:
        x = layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad")(x)
        padding = "valid"
    return layers.Conv2D(
        filters,
        kernel_size,
        strides=step.strides,
        dilation_rate=step.rate if kernel_size > 1 else 1,
        padding=padding,
        use_bias=False,
        name=name,
    )(x)


def _basic_block(
    x: tf.Tensor,
    channels: int,
    *,
    step: Step,
    tracker: StrideTracker,
    batch_norm: BatchNorm,
    name: str,
) -> tf.Tensor:
    """Adds two 3x3 convolutions; the second one has the rate after the stride."""
    y = _conv(x, channels, kernel_size=3, step=step, name=f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(batch_norm(y, f"{name}_bn1"))
    y = _conv(y, channels, kernel_size=3, step=tracker.step(), name=f"{name}_conv2")
    return _join(x, batch_norm(y, f"{name}_bn2"), step=step, batch_norm=batch_norm, name=name)


def _bottleneck(
    x: tf.Tensor,
    channels: int,
    *,
    step: Step,
    tracker: StrideTracker,
    batch_norm: BatchNorm,
    name: str,
) -> tf.Tensor:
    """Adds 1x1, 3x3 and 1x1 convolutions; the last has four times the channels."""
    del tracker  # the only 3x3 convolution takes the step
    return _bottleneck_of(
        x, channels, steps=(Step((1, 1), 1), step), step=step, batch_norm=batch_norm, name=name
    )


def _bottleneck_v1(
    x: tf.Tensor,
    channels: int,
    *,
    step: Step,
    tracker: StrideTracker,
    batch_norm: BatchNorm,
    name: str,
) -> tf.Tensor:
    """Adds the same, with the stride in the first 1x1; the 3x3 has the rate after it."""
    return _bottleneck_of(
        x, channels, steps=(step, tracker.step()), step=step, batch_norm=batch_norm, name=name
    )


def _bottleneck_of(
    x: tf.Tensor,
    channels: int,
    *,
    steps: tuple[Step, Step],
    step: Step,
    batch_norm: BatchNorm,
    name: str,
) -> tf.Tensor:
    """Adds a bottleneck; `steps` are of the first 1x1 and the 3x3, `step` is of both together."""
    y = _conv(x, channels, kernel_size=1, step=steps[0], name=f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(batch_norm(y, f"{name}_bn1"))
    y = _conv(y, channels, kernel_size=3, step=steps[1], name=f"{name}_conv2")
    y = layers.ReLU(name=f"{name}_relu2")(batch_norm(y, f"{name}_bn2"))
    y = _conv(
        y,
        channels * _BOTTLENECK_EXPANSION,
        kernel_size=1,
        step=Step((1, 1), 1),
        name=f"{name}_conv3",
    )
    return _join(x, batch_norm(y, f"{name}_bn3"), step=step, batch_norm=batch_norm, name=name)


def _join(
    shortcut: tf.Tensor, y: tf.Tensor, *, step: Step, batch_norm: BatchNorm, name: str
) -> tf.Tensor:
    """Adds the ReLU of the sum; the shortcut is projected if it has another shape."""
    if shortcut.shape[-1] != y.shape[-1] or max(step.strides) > 1:
        shortcut = _conv(
            shortcut, y.shape[-1], kernel_size=1, step=step, name=f"{name}_downsample_conv"
        )
        shortcut = batch_norm(shortcut, f"{name}_downsample_bn")
    total = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.ReLU(name=f"{name}_relu")(total)

"""ResNet-18, -50 and -101 as segmentation backbones.

He et al. 2015, deep residual learning, arXiv:1512.03385, table 1. The stride of a bottleneck lies
in its 3x3 convolution, as in torchvision ("v1.5"), or, in those named `_v1`, in its first 1x1
convolution as in the paper and Keras Applications. Layers bear torchvision's names with "_" for "."
(`layer1.0.conv1` is `layer1_0_conv1`). Padding is torchvision's: k // 2 on each side, which for a
stride of 2 is not "same".
"""

import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, Step, StrideWalk
from deeplab_tf.models.blocks import BatchNorm

layers = keras.layers

_EPSILON = 1e-5
_STAGE_CHANNELS = (64, 128, 256, 512)
_BOTTLENECK_EXPANSION = 4


def build_resnet18(image, form: BackboneForm) -> dict[int, object]:
    """{2: 64 channels, 4: 64, 8: 128, 16: 256, 32: 512}; the last stride has 512."""
    return _build(image, form, repeats=(2, 2, 2, 2), block=_basic_block)


def build_resnet50(image, form: BackboneForm) -> dict[int, object]:
    """{2: 64 channels, 4: 256, 8: 512, 16: 1024, 32: 2048}; the last stride has 2048."""
    return _build(image, form, repeats=(3, 4, 6, 3), block=_bottleneck)


def build_resnet101(image, form: BackboneForm) -> dict[int, object]:
    """{2: 64 channels, 4: 256, 8: 512, 16: 1024, 32: 2048}; the last stride has 2048."""
    return _build(image, form, repeats=(3, 4, 23, 3), block=_bottleneck)


def build_resnet50_v1(image, form: BackboneForm) -> dict[int, object]:
    """As ResNet-50, the strides in 1x1 convolutions."""
    return _build(image, form, repeats=(3, 4, 6, 3), block=_bottleneck_v1)


def build_resnet101_v1(image, form: BackboneForm) -> dict[int, object]:
    """As ResNet-101, the strides in 1x1 convolutions."""
    return _build(image, form, repeats=(3, 4, 23, 3), block=_bottleneck_v1)


def _build(image, form: BackboneForm, *, repeats, block) -> dict[int, object]:
    """Runs the feature extractor.

    Args:
        image: Keras tensor, float32 [batch, height, width, channels].
    """
    walk = StrideWalk(form)
    batch_norm = form.batch_norm(_EPSILON)
    x = _conv(image, 64, kernel_size=7, step=walk.step(2), name="conv1")
    x = layers.ReLU(name="relu")(batch_norm(x, "bn1"))
    features = {walk.stride: x}
    x = layers.ZeroPadding2D(1, name="maxpool_pad")(x)  # zeros lose against every ReLU's output
    x = layers.MaxPooling2D(3, strides=walk.step(2).strides, name="maxpool")(x)
    for stage, (channels, count) in enumerate(zip(_STAGE_CHANNELS, repeats, strict=True), 1):
        for index in range(count):
            step = walk.step(2 if stage > 1 and index == 0 else 1)
            x = block(x, channels, step, walk, batch_norm, f"layer{stage}_{index}")
        features[walk.stride] = x
    return features


def _conv(x, filters: int, *, kernel_size: int, step: Step, name: str):
    """Convolution without bias, padded by (kernel_size - 1) / 2 on every side."""
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


def _basic_block(x, channels: int, step: Step, walk: StrideWalk, batch_norm, name: str):
    """Two 3x3 convolutions; the second one takes the rate that holds from here on."""
    y = _conv(x, channels, kernel_size=3, step=step, name=f"{name}_conv1")
    y = layers.ReLU(name=f"{name}_relu1")(batch_norm(y, f"{name}_bn1"))
    y = _conv(y, channels, kernel_size=3, step=walk.step(), name=f"{name}_conv2")
    return _join(x, batch_norm(y, f"{name}_bn2"), step=step, batch_norm=batch_norm, name=name)


def _bottleneck(x, channels: int, step: Step, walk: StrideWalk, batch_norm, name: str):
    """1x1, 3x3, 1x1 to four times the channels."""
    del walk  # one 3x3 convolution, which takes the step
    return _bottleneck_of(
        x, channels, steps=(Step((1, 1), 1), step), step=step, batch_norm=batch_norm, name=name
    )


def _bottleneck_v1(x, channels: int, step: Step, walk: StrideWalk, batch_norm, name: str):
    """The same, its 3x3 behind the stride: it takes the rate that holds from here on."""
    return _bottleneck_of(
        x, channels, steps=(step, walk.step()), step=step, batch_norm=batch_norm, name=name
    )


def _bottleneck_of(
    x, channels: int, *, steps: tuple[Step, Step], step: Step, batch_norm, name: str
):
    """`steps`: of the first 1x1 and of the 3x3; `step`: of both together."""
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


def _join(shortcut, y, *, step: Step, batch_norm: BatchNorm, name: str):
    """ReLU of the sum; the shortcut is projected where it has another shape."""
    if shortcut.shape[-1] != y.shape[-1] or max(step.strides) > 1:
        shortcut = _conv(
            shortcut, y.shape[-1], kernel_size=1, step=step, name=f"{name}_downsample_conv"
        )
        shortcut = batch_norm(shortcut, f"{name}_downsample_bn")
    total = layers.Add(name=f"{name}_add")([shortcut, y])
    return layers.ReLU(name=f"{name}_relu")(total)

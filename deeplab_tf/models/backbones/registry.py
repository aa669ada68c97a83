"""The backbones by name. A new one is its own file and one line here.

Each is a function of (image, BackboneForm) that returns {stride: features}: the last tensor at
every stride from 1 or 2 to the output stride, [batch, height / stride, width / stride, channels]
(twice as many rows with `keep_rows`).
"""

import collections.abc
import dataclasses

import tensorflow as tf

from deeplab_tf.models.backbones.form import BackboneForm
from deeplab_tf.models.backbones.mobilenet_v2 import build_mobilenet_v2
from deeplab_tf.models.backbones.mobilenet_v3 import build_mobilenet_v3_large
from deeplab_tf.models.backbones.resnet import (
    build_resnet18,
    build_resnet50,
    build_resnet50_v1,
    build_resnet101,
    build_resnet101_v1,
)
from deeplab_tf.models.backbones.unet_encoder import build_unet_encoder
from deeplab_tf.models.backbones.vgg import build_vgg11_bn


@dataclasses.dataclass(frozen=True)
class Backbone:
    """A feature extractor.

    Attributes:
        build: (image, form) -> {stride: features}.
        many_widths: whether it can be built with a width multiplier other than 1.
    """

    build: collections.abc.Callable[[tf.Tensor, BackboneForm], dict[int, tf.Tensor]]
    many_widths: bool = False


BACKBONES = {
    "mobilenet_v2": Backbone(build_mobilenet_v2, many_widths=True),
    "mobilenet_v3_large": Backbone(build_mobilenet_v3_large, many_widths=True),
    "resnet18": Backbone(build_resnet18),
    "resnet50": Backbone(build_resnet50),
    "resnet50_v1": Backbone(build_resnet50_v1),
    "resnet101": Backbone(build_resnet101),
    "resnet101_v1": Backbone(build_resnet101_v1),
    "unet_encoder": Backbone(build_unet_encoder, many_widths=True),
    "vgg11_bn": Backbone(build_vgg11_bn),
}


def build_backbone(name: str, image: tf.Tensor, *, form: BackboneForm) -> dict[int, tf.Tensor]:
    """Adds a backbone.

    Args:
        name: key of BACKBONES.
        image: Keras tensor, float32 [batch, height, width, channels].
        form: how it is built.

    Returns:
        {stride: features}, strides ascending, the last one `form.output_stride`.

    Raises:
        ValueError: an unknown name, or a width that the backbone does not have.
    """
    if name not in BACKBONES:
        raise ValueError(f"unknown backbone {name!r}; known: {', '.join(sorted(BACKBONES))}")
    if form.width_multiplier != 1 and not BACKBONES[name].many_widths:
        raise ValueError(
            f"{name} has one width; got width_multiplier {form.width_multiplier}, give 1"
        )
    return BACKBONES[name].build(image, form)

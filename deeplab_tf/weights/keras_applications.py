"""Converts ImageNet weights of Keras Applications to this project's names and pixel values.

MobileNets have the same layer names and take x / 127.5 - 1, which equals this project's
(pixel - 128) / 128 within half a pixel. ResNets (He et al. 2015, with the stride in the first 1x1
convolution of a bottleneck) have other layer names, biases in front of their batch norms, and take
blue, green, red minus a mean:

    conv3_block1_2_conv/kernel -> layer2_0_conv2/kernel,  _0_conv -> downsample_conv
    batch norm of (y + bias):  moving mean - bias
    epsilon 1.001e-5 -> 1e-5:  moving variance + 1e-8
"""

import dataclasses
import re
from collections.abc import Callable

import numpy as np
import tf_keras as keras

from deeplab_tf.weights.pixel_normalization import PixelNormalization, fold_normalization

_RESNET_EPSILONS = 1.001e-5, 1e-5
"""Epsilon of batch norms in Keras Applications and in this project's ResNets."""
_CAFFE = PixelNormalization(
    tuple(mean / 255 for mean in (123.68, 116.779, 103.939)), (1 / 255,) * 3
)
"""Pixels minus a mean; keras.applications.imagenet_utils, mode "caffe"."""
_RESNET_BLOCK = re.compile(r"conv(\d)_block(\d+)_(\d)_(conv|bn)$")


@dataclasses.dataclass(frozen=True)
class Application:
    """A network of Keras Applications whose weights fit a backbone.

    Attributes:
        build: function that builds it.
        settings: arguments that give the same graph as the backbone.
        rename: converts its "layer/weight" arrays to the backbone's, without change of pixels.
        pixels: its normalization, in the order red, green, blue; None for (pixel - 128) / 128.
        has_width_multiplier: whether there are weights for widths other than 1.
    """

    build: Callable[..., keras.Model]
    settings: dict[str, object]
    rename: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    pixels: PixelNormalization | None = None
    has_width_multiplier: bool = False

    def model(self, width_multiplier: float, weights: str | None = "imagenet") -> keras.Model:
        """Builds the network without its classifier.

        Args:
            width_multiplier: of the numbers of channels.
            weights: "imagenet" downloads weights, None leaves them random.

        Returns:
            The network.

        Raises:
            Exception: there are no such weights, or the download failed.
        """
        settings = dict(self.settings)
        if self.has_width_multiplier:
            settings["alpha"] = width_multiplier
        return self.build(input_shape=(224, 224, 3), include_top=False, weights=weights, **settings)

    def convert(self, arrays: dict[str, np.ndarray], backbone: str) -> dict[str, np.ndarray]:
        """Converts weights to those of a backbone that takes this project's pixels.

        Args:
            arrays: "layer/weight" arrays of `model`.
            backbone: name of the backbone.

        Returns:
            The "layer/weight" arrays of the backbone.
        """
        renamed = self.rename(arrays)
        return (
            fold_normalization(renamed, backbone, normalization=self.pixels)
            if self.pixels
            else renamed
        )


def _flat_names(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Renames, for example, expanded_conv/depthwise/kernel to expanded_conv_depthwise/kernel."""
    return {name.replace("/", "_", name.count("/") - 1): value for name, value in arrays.items()}


def _resnet_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    renamed = {}
    for name, value in arrays.items():
        layer, _, weight = name.rpartition("/")
        renamed[f"{_resnet_layer(layer)}/{weight}"] = value
    biases = {name: renamed.pop(name) for name in list(renamed) if name.endswith("/bias")}
    for name, bias in biases.items():
        mean = f"{_norm_after(name.removesuffix('/bias'))}/moving_mean"
        renamed[mean] = renamed[mean] - bias
    theirs, ours = _RESNET_EPSILONS
    renamed |= {
        name: value + np.float32(theirs - ours)
        for name, value in renamed.items()
        if name.endswith("/moving_variance")
    }
    renamed["conv1/kernel"] = renamed["conv1/kernel"][:, :, ::-1]
    return renamed


def _resnet_layer(name: str) -> str:
    found = _RESNET_BLOCK.match(name)
    if found is None:
        return {"conv1_conv": "conv1", "conv1_bn": "bn1"}[name]
    stage, block, place, kind = int(found[1]) - 1, int(found[2]) - 1, found[3], found[4]
    last = f"{kind}{place}" if place != "0" else f"downsample_{kind}"
    return f"layer{stage}_{block}_{last}"


def _norm_after(convolution: str) -> str:
    """Returns the batch norm after a convolution: layer2_0_bn2 for layer2_0_conv2."""
    head, _, last = convolution.rpartition("_")
    return f"{head}_{last.replace('conv', 'bn')}" if head else last.replace("conv", "bn")


APPLICATIONS = {
    "mobilenet_v2": Application(
        keras.applications.MobileNetV2, {}, rename=_flat_names, has_width_multiplier=True
    ),
    "mobilenet_v3_large": Application(
        keras.applications.MobileNetV3Large,
        {"minimalistic": True, "include_preprocessing": False},
        rename=_flat_names,
        has_width_multiplier=True,
    ),
    "resnet50_v1": Application(
        keras.applications.ResNet50, {}, rename=_resnet_arrays, pixels=_CAFFE
    ),
    "resnet101_v1": Application(
        keras.applications.ResNet101, {}, rename=_resnet_arrays, pixels=_CAFFE
    ),
}
"""{backbone: network of Keras Applications}."""

"""Converts weights of torchvision to this project's names and layout.

    OIHW kernels become HWIO; running_mean, running_var become moving_mean, moving_variance
    layer1.0.conv1.weight -> layer1_0_conv1/kernel
    layer1.0.downsample.1.bias -> layer1_0_downsample_bn/beta

Only networks with equivalent padding give the same result: ResNet and VGG. MobileNets of
torchvision pad both sides by 1 where "same" pads one side only.
"""

import re
from collections.abc import Callable

import numpy as np
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm
from deeplab_tf.models.backbones.registry import build_backbone
from deeplab_tf.weights.pixel_normalization import FIRST_LAYERS

_PREFIXES = ("module.", "model.", "backbone.", "encoder.")
"""Prefixes that wrappers and segmentation networks add to the names of a backbone."""
_BATCH_NORM = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}
_CONVOLUTION = {"weight": "kernel", "bias": "bias"}
_RESNET_LAYER = re.compile(r"(layer[1-4]\.\d+\.)?(conv\d|bn\d|downsample\.[01])$")
_VGG11_BN = {  # index in torchvision's `features` -> layer
    0: "block1_conv1",
    1: "block1_bn1",
    4: "block2_conv1",
    5: "block2_bn1",
    8: "block3_conv1",
    9: "block3_bn1",
    11: "block3_conv2",
    12: "block3_bn2",
    15: "block4_conv1",
    16: "block4_bn1",
    18: "block4_conv2",
    19: "block4_bn2",
    22: "block5_conv1",
    23: "block5_bn1",
    25: "block5_conv2",
    26: "block5_bn2",
}


def _resnet_layer(name: str) -> str | None:
    if not _RESNET_LAYER.match(name):
        return None
    return (
        name.replace("downsample.0", "downsample_conv")
        .replace("downsample.1", "downsample_bn")
        .replace(".", "_")
    )


def _vgg_layer(name: str) -> str | None:
    found = re.fullmatch(r"features\.(\d+)", name)
    return _VGG11_BN.get(int(found.group(1))) if found else None


LAYER_NAMES: dict[str, Callable[[str], str | None]] = {
    "resnet18": _resnet_layer,
    "resnet50": _resnet_layer,
    "resnet101": _resnet_layer,
    "vgg11_bn": _vgg_layer,
}
"""{backbone: function from the name of a torch module to that of the layer, None if not part}."""


def convert_state(
    state: dict[str, np.ndarray], backbone: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts a state dict to "layer/weight" arrays.

    Args:
        state: {name in torch: array}.
        backbone: key of LAYER_NAMES.

    Returns:
        The arrays, float32, and the names that are not used (of a classifier, of a head).

    Raises:
        ValueError: a backbone that torchvision computes differently, nothing matches, a layer of
            the backbone is missing or has another shape, or a weight is not finite.
    """
    if backbone not in LAYER_NAMES:
        raise ValueError(
            f"torch weights fit {', '.join(sorted(LAYER_NAMES))}; got {backbone}, which "
            "torchvision pads differently or does not have"
        )
    arrays: dict[str, np.ndarray] = {}
    unused = []
    for name, value in state.items():
        if name.endswith("num_batches_tracked"):
            continue
        module, _, weight = _without_prefix(name).rpartition(".")
        layer = LAYER_NAMES[backbone](module)
        if layer is None:
            unused.append(name)
            continue
        kinds = _BATCH_NORM if re.search(r"bn\d?$", layer) else _CONVOLUTION
        if weight not in kinds:
            unused.append(name)
            continue
        value = np.asarray(value, np.float32)
        key = f"{layer}/{kinds[weight]}"
        arrays[key] = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value
    if not arrays:
        raise ValueError(
            f"expected names of {backbone}, got {', '.join(list(state)[:3]) or 'none'}; give "
            "weights of this backbone"
        )
    _check_complete(arrays, backbone)
    return arrays, unused


def _check_complete(arrays: dict[str, np.ndarray], backbone: str) -> None:
    kernel = arrays.get(f"{FIRST_LAYERS[backbone][0]}/kernel")
    channels = kernel.shape[2] if kernel is not None and kernel.ndim == 4 else 3
    image = keras.Input((64, 64, channels))
    form = BackboneForm(output_stride=32)
    features = build_backbone(backbone, image, form=form)[form.output_stride]
    for layer in keras.Model(image, features).layers:
        for weight in layer.weights:
            key = f"{layer.name}/{weight.name.split('/')[-1].split(':')[0]}"
            if key not in arrays:
                raise ValueError(
                    f"the file has no {key}; give the complete state dict of {backbone}"
                )
            if arrays[key].shape != tuple(weight.shape):
                raise ValueError(
                    f"{key} of {backbone}: expected shape {tuple(weight.shape)}, got "
                    f"{arrays[key].shape}; was the file made for another network?"
                )
            if not np.isfinite(arrays[key]).all():
                raise ValueError(f"{key} contains NaN or infinity; its training diverged")


def _without_prefix(name: str) -> str:
    while True:
        for prefix in _PREFIXES:
            if name.startswith(prefix):
                name = name.removeprefix(prefix)
                break
        else:
            return name

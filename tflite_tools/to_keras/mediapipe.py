"""Import rules for the custom operators of MediaPipe's segmentation models.

mediapipe/util/tflite/operations: transpose_conv_bias.cc, max_pool_argmax.cc, max_unpooling.cc.
Their options are the runtime's own C structs, as little-endian int32:

    Convolution2DTransposeBias                  padding, stride width, stride height
    MaxPoolingWithArgmax2D, MaxUnpooling2D      padding, stride width, stride height, filter width,
                                                filter height, activation, ...
"""

import struct

from tflite_tools.to_keras.convolutions import transposed
from tflite_tools.to_keras.rules import rule
from tflite_tools.to_keras.view import OperatorView, Step

_SAME, _VALID = 1, 2
"""`TfLitePadding` of the runtime; the schema's own numbers differ."""
_LINEAR = 0


@rule("CUSTOM:Convolution2DTransposeBias")
def transpose_conv_bias(view: OperatorView) -> list[Step]:
    """Imports a transpose convolution with a bias."""
    padding, width, height = _options(view, 3)
    return transposed(view, slots=(0, 1, 2), strides=(height, width), same=padding == _SAME)


@rule("CUSTOM:MaxPoolingWithArgmax2D")
def max_pool_with_argmax(view: OperatorView) -> list[Step]:
    """Imports one of its outputs: the largest values, or their places in their windows."""
    size = _window(view, view.input(0).shape[1:3])
    if view.slot:
        return [Step("pool_argmax", {"pool_size": size}, note="places in the windows")]
    settings = {"pool_size": size, "strides": size, "padding": "valid"}
    return [Step("max_pool2d", settings, note=f"{size[0]}x{size[1]}")]


@rule("CUSTOM:MaxUnpooling2D")
def max_unpooling(view: OperatorView) -> list[Step]:
    """Imports the reverse of a max pool, from values and places."""
    size = _window(view, view.output.shape[1:3])
    return [Step("max_unpool", {"pool_size": size}, note=f"{size[0]}x{size[1]}")]


def _window(view: OperatorView, image: tuple[int, ...]) -> tuple[int, int]:
    """Returns the size of the windows, which must cover the image without overlap or rest."""
    _, *strides, width, height, activation = _options(view, 6)
    if strides != [width, height] or image[0] % height or image[1] % width:
        raise ValueError(
            f"its windows of {height}x{width} overlap or leave a rest of {image[0]}x{image[1]}"
        )
    if activation != _LINEAR:
        raise ValueError(f"its fused activation {activation} is not supported")
    return height, width


def _options(view: OperatorView, count: int) -> tuple[int, ...]:
    stored = view.operator.custom_options
    if len(stored) < 4 * count:
        raise ValueError(f"its options have {len(stored)} bytes, not {4 * count} or more")
    options = struct.unpack_from(f"<{count}i", stored)
    if options[0] not in (_SAME, _VALID) or min(options[1:3]) < 1:
        raise ValueError(f"its options are {options}")
    return options

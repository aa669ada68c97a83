"""ENet, in a form that converts to integers whole.

Paszke et al. 2016, ENet, arXiv:1606.02147, table 1 and figure 2. What differs, and why:

- max-unpooling becomes a bilinear resize by 2: TFLite cannot carry the places of the maxima.
  `build_enet_max_unpooling` keeps it, float only, to measure what that costs;
- transposed convolutions become a bilinear resize by 2 and a 3x3 convolution: older accelerators
  lack them;
- PReLU becomes LeakyReLU with 0.25, PReLU's first value: 16-bit kernels lack PReLU. On the way up
  it is ReLU, as in the authors' code (e-lab/ENet-training);
- where a bottleneck doubles its channels, zeros beside the shortcut become a 1x1 convolution;
- in the initial block the batch norms stand before the concatenation: one behind it would stay an
  integer multiplication and addition of its own. The pooled image gets a factor a channel: without
  an operator between, image, pool and concatenation would have to share one scale;
- no spatial dropout: a run is a function of (seed, step);
- the last transposed convolution becomes a 3x3 convolution at stride 2; the head resizes.
"""

import functools

import tf_keras as keras

from deeplab_tf.models.blocks import BatchNorm, resize_like
from deeplab_tf.models.config import ModelConfig
from deeplab_tf.models.unpooling import MaxUnpooling

layers = keras.layers

_INITIAL_CHANNELS = 16
_SLOPE = 0.25
_REDUCTION = 4
_EPSILON = 1e-3
_SECTION = (
    ("regular", {}),
    ("dilated", {"rate": 2}),
    ("asymmetric", {"length": 5}),
    ("dilated", {"rate": 4}),
    ("regular", {}),
    ("dilated", {"rate": 8}),
    ("asymmetric", {"length": 5}),
    ("dilated", {"rate": 16}),
)
"""Bottlenecks 2.1 to 2.8 of the paper's table 1, and 3.1 to 3.8: kind and its setting."""


def build_enet(
    config: ModelConfig, size: tuple[int, int], max_unpooling: bool = False
) -> keras.Model:
    """Builds the network up to logits at stride 2.

    Args:
        config: of its fields, only num_classes, channels, keep_rows and batch_norm_momentum matter.
        height, width: input size; a multiple of the output stride, or one more. The network's own
            is 8.
        max_unpooling: the paper's way up in the shortcuts; such a network is no integer file.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes].

    Raises:
        ValueError: no room for a convolution beside the image's channels.
    """
    height, width = size
    config.check_size(height, width)
    if config.channels >= _INITIAL_CHANNELS:
        raise ValueError(f"enet takes at most 15 channels; got {config.channels}")
    batch_norm = BatchNorm(config.batch_norm_momentum, _EPSILON)
    block = _Block(batch_norm, functools.partial(layers.LeakyReLU, _SLOPE))
    image = keras.Input((height, width, config.channels), name="image")
    half = _initial(image, block, strides=(1, 2) if config.keep_rows else (2, 2))
    quarter, half_pool = block.down(half, 64, name="bottleneck1_0")
    for index in range(1, 5):
        quarter = block.regular(quarter, f"bottleneck1_{index}")
    x, quarter_pool = block.down(quarter, 128, name="bottleneck2_0")
    for section in (2, 3):
        for index, (kind, setting) in enumerate(_SECTION, 1):
            x = getattr(block, kind)(x, f"bottleneck{section}_{index}", **setting)
    block = _Block(batch_norm, layers.ReLU)
    x = block.up(x, quarter_pool, filters=64, name="bottleneck4_0", max_unpooling=max_unpooling)
    for index in (1, 2):
        x = block.regular(x, f"bottleneck4_{index}")
    x = block.up(x, half_pool, filters=16, name="bottleneck5_0", max_unpooling=max_unpooling)
    x = block.regular(x, "bottleneck5_1")
    logits = layers.Conv2D(config.num_classes, 3, padding="same", name="logits")(x)
    return keras.Model(image, logits, name="enet")


build_enet_max_unpooling = functools.partial(build_enet, max_unpooling=True)


def _initial(image, block: "_Block", *, strides: tuple[int, int]):
    """A strided convolution beside a max pool of the image: 16 channels."""
    filters = _INITIAL_CHANNELS - image.shape[-1]
    x = block.conv(image, filters, size=3, name="initial_conv", strides=strides)
    pooled = layers.MaxPooling2D(strides, padding="same", name="initial_pool")(image)
    pooled = block.own_scale(pooled, "initial_pool_scale")
    return block.activation(name="initial")(layers.Concatenate(name="initial_concat")([x, pooled]))


class _Block:
    """The bottlenecks: 1x1 to a quarter of the output, a convolution, 1x1 up, and a shortcut.

    Args:
        batch_norm: settings.
        activation: takes a name, gives a layer.
    """

    def __init__(self, batch_norm: BatchNorm, activation):
        self._batch_norm, self.activation = batch_norm, activation

    def conv(self, x, filters: int, *, size, name: str, **settings):
        """Convolution without bias, and batch norm."""
        x = layers.Conv2D(filters, size, padding="same", use_bias=False, name=name, **settings)(x)
        return self._batch_norm(x, f"{name}_bn")

    def own_scale(self, x, name: str):
        """A factor and an offset for each channel."""
        x = layers.DepthwiseConv2D(1, use_bias=False, name=name)(x)
        return self._batch_norm(x, f"{name}_bn")

    def conv_act(self, x, filters: int, *, size, name: str, **settings):
        return self.activation(name=f"{name}_act")(
            self.conv(x, filters, size=size, name=name, **settings)
        )

    def _end(self, shortcut, x, *, name: str):
        x = self.conv(x, shortcut.shape[-1], size=1, name=f"{name}_expand")
        return self.activation(name=name)(layers.Add(name=f"{name}_add")([shortcut, x]))

    def regular(self, x, name: str, *, rate: int = 1):
        """A 3x3 convolution in the middle, atrous where `rate` is above 1."""
        inner = x.shape[-1] // _REDUCTION
        y = self.conv_act(x, inner, size=1, name=f"{name}_reduce")
        y = self.conv_act(y, inner, size=3, name=f"{name}_conv", dilation_rate=rate)
        return self._end(x, y, name=name)

    dilated = regular

    def asymmetric(self, x, name: str, *, length: int):
        """`length` x 1 and 1 x `length` in the middle."""
        inner = x.shape[-1] // _REDUCTION
        y = self.conv_act(x, inner, size=1, name=f"{name}_reduce")
        y = layers.Conv2D(
            inner, (length, 1), padding="same", use_bias=False, name=f"{name}_column"
        )(y)
        y = self.conv_act(y, inner, size=(1, length), name=f"{name}_row")
        return self._end(x, y, name=name)

    def down(self, x, filters: int, *, name: str):
        """Half the size: a 2x2 convolution of stride 2, a max pool beside it.

        Returns:
            features, and (before, after) of the max pool.
        """
        inner = filters // _REDUCTION
        y = self.conv_act(x, inner, size=2, name=f"{name}_reduce", strides=2)
        y = self.conv_act(y, inner, size=3, name=f"{name}_conv")
        pooled = layers.MaxPooling2D(2, padding="same", name=f"{name}_pool")(x)
        y = self._end(self.conv(pooled, filters, size=1, name=f"{name}_shortcut"), y, name=name)
        return y, (x, pooled)

    def up(self, x, pool: tuple, *, filters: int, name: str, max_unpooling: bool):
        """Back before `pool`: a resize in the middle, a resize or an unpooling in the shortcut."""
        before, pooled = pool
        inner = filters // _REDUCTION
        shortcut = self.conv(x, filters, size=1, name=f"{name}_shortcut")
        if max_unpooling:
            shortcut = MaxUnpooling(name=f"{name}_unpool")([shortcut, before, pooled])
        else:
            shortcut = resize_like(shortcut, before, name=f"{name}_shortcut_resize")
        y = self.conv_act(x, inner, size=1, name=f"{name}_reduce")
        y = resize_like(y, before, name=f"{name}_resize")
        y = self.conv_act(y, inner, size=3, name=f"{name}_conv")
        return self._end(shortcut, y, name=name)

"""ENet, in a form that converts completely to integers.

Paszke et al. 2016, ENet, arXiv:1606.02147, table 1 and figure 2. The differences, and why:

- max-unpooling becomes a bilinear resize by 2: TFLite cannot represent the positions of the
  maxima. `build_enet_max_unpooling` keeps it, float only, to measure the difference;
- transposed convolutions become a bilinear resize by 2 and a 3x3 convolution: older accelerators
  lack them;
- PReLU becomes LeakyReLU with 0.25, PReLU's initial value: 16-bit kernels lack PReLU. In the
  decoder it is ReLU, as in the authors' code (e-lab/ENet-training);
- where a bottleneck doubles its channels, the zero channels appended to the shortcut become a 1x1
  convolution;
- in the initial block the batch norms are before the concatenation: one after it would remain a
  separate integer multiplication and addition. The pooled image gets one factor per channel:
  without an operator between them, image, pool and concatenation would have to share one scale;
- no spatial dropout: a run is a function of (seed, step);
- the last transposed convolution becomes a 3x3 convolution at stride 2; the head resizes.
"""

import collections.abc
import functools
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.blocks import BatchNorm, resize_like
from deeplab_tf.models.config import ENetConfig
from deeplab_tf.models.unpooling import MaxUnpooling

layers = keras.layers

_INITIAL_CHANNELS = 16
_SLOPE = 0.25
_REDUCTION = 4
_EPSILON = 1e-3
_SECTION: tuple[tuple[str, dict[str, int]], ...] = (
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
    config: ENetConfig, size: tuple[int, int], *, max_unpooling: bool = False
) -> keras.Model:
    """Builds the network up to logits at stride 2.

    Args:
        config: what to build.
        size: (height, width) of the input, multiples of the output stride, or one more. The
            network's own stride is 8.
        max_unpooling: upsample the shortcuts as in the paper; such a network does not convert to
            integers.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes].

    Raises:
        ValueError: another size, or more than 15 channels, which leave none for the convolution.
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


def _initial(image: tf.Tensor, block: "_Block", *, strides: tuple[int, int]) -> tf.Tensor:
    """Adds a strided convolution and a max pool of the image, concatenated to 16 channels."""
    filters = _INITIAL_CHANNELS - image.shape[-1]
    x = block.conv(image, filters, size=3, name="initial_conv", strides=strides)
    pooled = layers.MaxPooling2D(strides, padding="same", name="initial_pool")(image)
    pooled = block.own_scale(pooled, "initial_pool_scale")
    return block.activation(name="initial")(layers.Concatenate(name="initial_concat")([x, pooled]))


class _Block:
    """The bottlenecks: 1x1 to a quarter of the channels, a convolution, 1x1 back, and a shortcut.

    Attributes:
        activation: takes a name, returns a layer.
    """

    def __init__(
        self, batch_norm: BatchNorm, activation: collections.abc.Callable[..., keras.layers.Layer]
    ) -> None:
        self._batch_norm, self.activation = batch_norm, activation

    def conv(
        self,
        x: tf.Tensor,
        filters: int,
        *,
        size: int | tuple[int, int],
        name: str,
        **settings: Any,
    ) -> tf.Tensor:
        """Adds a convolution without bias, and batch norm."""
        x = layers.Conv2D(filters, size, padding="same", use_bias=False, name=name, **settings)(x)
        return self._batch_norm(x, f"{name}_bn")

    def own_scale(self, x: tf.Tensor, name: str) -> tf.Tensor:
        """Adds a factor and an offset per channel."""
        x = layers.DepthwiseConv2D(1, use_bias=False, name=name)(x)
        return self._batch_norm(x, f"{name}_bn")

    def conv_act(
        self,
        x: tf.Tensor,
        filters: int,
        *,
        size: int | tuple[int, int],
        name: str,
        **settings: Any,
    ) -> tf.Tensor:
        """Adds a convolution without bias, batch norm and the activation."""
        return self.activation(name=f"{name}_act")(
            self.conv(x, filters, size=size, name=name, **settings)
        )

    def _end(self, shortcut: tf.Tensor, x: tf.Tensor, *, name: str) -> tf.Tensor:
        x = self.conv(x, shortcut.shape[-1], size=1, name=f"{name}_expand")
        return self.activation(name=name)(layers.Add(name=f"{name}_add")([shortcut, x]))

    def regular(self, x: tf.Tensor, name: str, *, rate: int = 1) -> tf.Tensor:
        """Adds a bottleneck with a 3x3 convolution, atrous if `rate` is above 1."""
        inner = x.shape[-1] // _REDUCTION
        y = self.conv_act(x, inner, size=1, name=f"{name}_reduce")
        y = self.conv_act(y, inner, size=3, name=f"{name}_conv", dilation_rate=rate)
        return self._end(x, y, name=name)

    dilated = regular

    def asymmetric(self, x: tf.Tensor, name: str, *, length: int) -> tf.Tensor:
        """Adds a bottleneck with a `length` x 1 and a 1 x `length` convolution."""
        inner = x.shape[-1] // _REDUCTION
        y = self.conv_act(x, inner, size=1, name=f"{name}_reduce")
        y = layers.Conv2D(
            inner, (length, 1), padding="same", use_bias=False, name=f"{name}_column"
        )(y)
        y = self.conv_act(y, inner, size=(1, length), name=f"{name}_row")
        return self._end(x, y, name=name)

    def down(
        self, x: tf.Tensor, filters: int, *, name: str
    ) -> tuple[tf.Tensor, tuple[tf.Tensor, tf.Tensor]]:
        """Adds a bottleneck of stride 2: a 2x2 convolution, and a max pool in the shortcut.

        Args:
            x: features.
            filters: number of output channels.
            name: of the output layer, and prefix of the others.

        Returns:
            features, and (input, output) of the max pool.
        """
        inner = filters // _REDUCTION
        y = self.conv_act(x, inner, size=2, name=f"{name}_reduce", strides=2)
        y = self.conv_act(y, inner, size=3, name=f"{name}_conv")
        pooled = layers.MaxPooling2D(2, padding="same", name=f"{name}_pool")(x)
        y = self._end(self.conv(pooled, filters, size=1, name=f"{name}_shortcut"), y, name=name)
        return y, (x, pooled)

    def up(
        self,
        x: tf.Tensor,
        pool: tuple[tf.Tensor, tf.Tensor],
        *,
        filters: int,
        name: str,
        max_unpooling: bool,
    ) -> tf.Tensor:
        """Adds a bottleneck that upsamples to the size before `pool`.

        Args:
            x: features.
            pool: (input, output) of the max pool.
            filters: number of output channels.
            name: of the output layer, and prefix of the others.
            max_unpooling: upsample the shortcut by max-unpooling, not by a resize.

        Returns:
            features of the size before the pool.
        """
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

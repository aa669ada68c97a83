"""Random scale, padding, crop, flip and colour jitter as pure functions of a seed.

Stateless random numbers make every example a function of (seed, example number): a resumed run
reads the same examples as a run that was never stopped.
"""

import dataclasses

import tensorflow as tf

from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import PAD_PIXEL
from deeplab_tf.field_types import check_field_types

LARGEST_SCALE = 64


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Random changes of an image in training, before normalization.

    Attributes:
        min_scale: lower end of the random scale.
        max_scale: upper end of the random scale; 1 for both ends switches scaling off.
        flip: whether to mirror left and right with probability one half.
        color_jitter: largest relative change of brightness, contrast and saturation; 0 is off.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    flip: bool = True
    color_jitter: float = 0.2

    def __post_init__(self) -> None:
        check_field_types(self)
        if not 0 < self.min_scale <= self.max_scale <= LARGEST_SCALE:
            raise ValueError(
                f"expected 0 < min_scale <= max_scale <= {LARGEST_SCALE}; got {self.min_scale} and "
                f"{self.max_scale}"
            )
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter must be in [0, 1); got {self.color_jitter}")


def augment(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    options: Augmentation,
    crop_height: int,
    crop_width: int,
    antisymmetric_channels: tuple[int, ...] = (),
) -> tuple[tf.Tensor, tf.Tensor]:
    """Makes one training example.

    The source window that becomes the crop is cut out before it is resampled, which gives the
    same pixels as scaling the whole image, in a fraction of the time.

    Args:
        image: uint8 [height, width, channels].
        label: uint8 [height, width].
        seed: int32 [2].
        options: the random changes.
        crop_height: height of the example.
        crop_width: width of the example.
        antisymmetric_channels: indices of channels that change sign when mirrored.

    Returns:
        The image, float32 [crop_height, crop_width, channels] in 0..255, and the label,
        uint8 [crop_height, crop_width], 255 where the crop lies outside the image.
    """
    seeds = tf.random.split(seed, 4)
    image, label = random_scale_crop(image, label, seeds[0], options, crop_height, crop_width)
    if options.flip:
        image, label = random_flip(image, label, seeds[1], antisymmetric_channels)
    if options.color_jitter:
        image = jitter_colors(image, seeds[2], strength=options.color_jitter)
    return image, label


def random_scale_crop(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    options: Augmentation,
    crop_height: int,
    crop_width: int,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Scales by a random factor and takes a random crop, padded where the image is too small.

    Args:
        image: uint8 [height, width, channels].
        label: uint8 [height, width].
        seed: int32 [2].
        options: range of the scale.
        crop_height: height of the crop.
        crop_width: width of the crop.

    Returns:
        The image, float32 [crop_height, crop_width, channels] in 0..255, and the label,
        uint8 [crop_height, crop_width], 255 where padded.
    """
    seeds = tf.random.split(seed, 2)
    scale = tf.random.stateless_uniform([], seeds[0], options.min_scale, options.max_scale)
    window = tf.cast(
        tf.maximum(tf.round(tf.constant([crop_height, crop_width], tf.float32) / scale), 1.0),
        tf.int32,
    )
    size = tf.shape(image)[:2]
    slack = tf.maximum(size - window, 0)
    offset = tf.cast(
        tf.random.stateless_uniform([2], seeds[1]) * tf.cast(slack + 1, tf.float32), tf.int32
    )
    offset = tf.minimum(offset, slack)
    inside = tf.minimum(size, window)
    image = image[offset[0] : offset[0] + inside[0], offset[1] : offset[1] + inside[1]]
    label = label[offset[0] : offset[0] + inside[0], offset[1] : offset[1] + inside[1]]
    missing = window - inside
    image = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]], constant_values=PAD_PIXEL)
    label = tf.pad(label, [[0, missing[0]], [0, missing[1]]], constant_values=IGNORE_LABEL)
    target = (crop_height, crop_width)
    image = tf.image.resize(image, target, method="bilinear")
    label = tf.image.resize(label[..., None], target, method="nearest")[..., 0]
    image.set_shape([crop_height, crop_width, image.shape[-1]])
    return image, label


def random_flip(
    image: tf.Tensor,
    label: tf.Tensor,
    seed: tf.Tensor,
    antisymmetric_channels: tuple[int, ...] = (),
) -> tuple[tf.Tensor, tf.Tensor]:
    """Mirrors image and label left and right with probability one half.

    Args:
        image: float32 [height, width, channels] in 0..255.
        label: uint8 [height, width].
        seed: int32 [2].
        antisymmetric_channels: indices of channels that change sign about their zero, 128.

    Returns:
        The image and the label, both mirrored or both unchanged.
    """
    flip = tf.random.stateless_uniform([], seed) < 0.5
    mirrored = tf.reverse(image, [1])
    if antisymmetric_channels:
        negated = tf.constant([index in antisymmetric_channels for index in range(image.shape[-1])])
        negative = tf.clip_by_value(2.0 * PAD_PIXEL - mirrored, 0.0, 255.0)
        mirrored = tf.where(negated, negative, mirrored)
    return tf.where(flip, mirrored, image), tf.where(flip, tf.reverse(label, [1]), label)


def jitter_colors(image: tf.Tensor, seed: tf.Tensor, *, strength: float) -> tf.Tensor:
    """Changes brightness, contrast and saturation, each by a factor in 1 +- strength.

    Saturation is changed for 3 channels only: other inputs have no gray.

    Args:
        image: float32 [height, width, channels] in 0..255.
        seed: int32 [2].
        strength: largest relative change.

    Returns:
        float32 of the same shape and range.
    """
    brightness, contrast, saturation = tf.unstack(
        tf.random.stateless_uniform([3], seed, 1.0 - strength, 1.0 + strength)
    )
    image = image * brightness
    mean = tf.reduce_mean(image, axis=[0, 1], keepdims=True)
    image = mean + contrast * (image - mean)
    if image.shape[-1] == 3:
        gray = tf.reduce_mean(image, axis=-1, keepdims=True)
        image = gray + saturation * (image - gray)
    return tf.clip_by_value(image, 0.0, 255.0)

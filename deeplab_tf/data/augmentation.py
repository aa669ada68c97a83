"""Random scale, pad, crop, flip and colour jitter, as pure functions of a seed.

Stateless random numbers make every example a function of (seed, example number): a run that
is resumed at any step sees what a run never stopped would have seen.
"""

import dataclasses

import tensorflow as tf

from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.preprocessing import PAD_PIXEL


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What training does to a photo before it is normalized.

    Attributes:
        min_scale, max_scale: range of the random scale; 1 and 1 switch it off.
        flip: mirror left and right with probability one half.
        color_jitter: largest relative change of brightness, contrast and saturation; 0 is off.
    """

    min_scale: float = 0.5
    max_scale: float = 2.0
    flip: bool = True
    color_jitter: float = 0.2

    def __post_init__(self):
        if not 0 < self.min_scale <= self.max_scale:
            raise ValueError(
                "scales must satisfy 0 < min_scale <= max_scale; "
                f"got {self.min_scale} and {self.max_scale}"
            )
        if not 0 <= self.color_jitter < 1:
            raise ValueError(f"color_jitter must be 0 to below 1; got {self.color_jitter}")


def augment(
    image,
    label,
    seed,
    options: Augmentation,
    crop_height: int,
    crop_width: int,
    antisymmetric_channels: tuple[int, ...] = (),
):
    """One training example.

    The source window that becomes the crop is cut out first and only then resampled, which
    gives the same pixels as scaling the whole photo, at a fraction of the time.

    Args:
        image: uint8 [height, width, channels].
        label: uint8 [height, width].
        seed: int32 [2].
        antisymmetric_channels: those that change sign in a mirror.

    Returns:
        float32 [crop_height, crop_width, channels] in 0..255 and
        uint8 [crop_height, crop_width], 255 where the crop lies outside the photo.
    """
    seeds = tf.random.split(seed, 4)
    image, label = random_scale_crop(image, label, seeds[0], options, crop_height, crop_width)
    if options.flip:
        image, label = random_flip(image, label, seeds[1], antisymmetric_channels)
    if options.color_jitter:
        image = jitter_colors(image, seeds[2], strength=options.color_jitter)
    return image, label


def random_scale_crop(image, label, seed, options: Augmentation, crop_height, crop_width):
    """Scales by a random factor and cuts a random crop, padding what the photo lacks."""
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
    taken = tf.minimum(size, window)
    image = image[offset[0] : offset[0] + taken[0], offset[1] : offset[1] + taken[1]]
    label = label[offset[0] : offset[0] + taken[0], offset[1] : offset[1] + taken[1]]
    missing = window - taken
    image = tf.pad(image, [[0, missing[0]], [0, missing[1]], [0, 0]], constant_values=PAD_PIXEL)
    label = tf.pad(label, [[0, missing[0]], [0, missing[1]]], constant_values=IGNORE_LABEL)
    target = (crop_height, crop_width)
    image = tf.image.resize(image, target, method="bilinear")
    label = tf.image.resize(label[..., None], target, method="nearest")[..., 0]
    image.set_shape([crop_height, crop_width, image.shape[-1]])
    return image, label


def random_flip(image, label, seed, antisymmetric_channels: tuple[int, ...] = ()):
    """Mirrors left and right, both or neither; odd channels about their zero, 128."""
    mirrored = tf.random.stateless_uniform([], seed) < 0.5
    mirror = tf.reverse(image, [1])
    if antisymmetric_channels:
        odd = tf.constant([index in antisymmetric_channels for index in range(image.shape[-1])])
        mirror = tf.where(odd, tf.clip_by_value(2.0 * PAD_PIXEL - mirror, 0.0, 255.0), mirror)
    return (
        tf.where(mirrored, mirror, image),
        tf.where(mirrored, tf.reverse(label, [1]), label),
    )


def jitter_colors(image, seed, *, strength: float):
    """Brightness, contrast and saturation, each by a factor of 1 +- strength.

    Saturation is changed for 3 channels only: other inputs have no gray to move to.

    Args:
        image: float32 [height, width, channels] in 0..255.

    Returns:
        the same shape and range.
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

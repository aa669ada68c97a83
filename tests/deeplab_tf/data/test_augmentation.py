"""Augmentation moves image and label together, as a pure function of the seed.

Photos here carry their label in every channel: pixel = 10 * class.
"""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.augmentation import (
    Augmentation,
    augment,
    jitter_colors,
    random_flip,
    random_scale_crop,
)

OFF = Augmentation(min_scale=1.0, max_scale=1.0, flip=False, color_jitter=0.0)


def _seed(number):
    return tf.constant([7, number], tf.int32)


def _encoded(height, width, num_classes=20, channels=3, seed=0):
    label = np.random.default_rng(seed).integers(0, num_classes, (height, width), dtype=np.uint8)
    return np.repeat(10 * label[..., None], channels, 2), label


def _run(function, *arguments):
    return tuple(tensor.numpy() for tensor in function(*arguments))


@pytest.mark.parametrize("channels", [3, 5])
def test_same_seed_same_example_eagerly_and_in_a_pipeline(channels):
    image, label = _encoded(40, 50, channels=channels)
    options = Augmentation()
    first = _run(augment, image, label, _seed(1), options, 24, 32)
    again = _run(augment, image, label, _seed(1), options, 24, 32)
    other = _run(augment, image, label, _seed(2), options, 24, 32)
    mapped = tf.data.Dataset.from_tensors((image, label)).map(
        lambda x, y: augment(x, y, _seed(1), options, 24, 32)
    )
    in_pipeline = tuple(tensor.numpy() for tensor in next(iter(mapped)))
    assert first[0].shape == (24, 32, channels)
    assert (first[0].dtype, first[1].dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    np.testing.assert_array_equal(first[1], in_pipeline[1])
    # Other compiled kernels may round the jitter's products otherwise: 1e-3 of 255 gray levels.
    np.testing.assert_allclose(first[0], in_pipeline[0], atol=1e-3)
    assert (first[1] != other[1]).any()


def test_everything_off_on_an_exact_fit_changes_nothing():
    image, label = _encoded(24, 32)
    result = _run(augment, image, label, _seed(0), OFF, 24, 32)
    np.testing.assert_array_equal(result[0], image)
    np.testing.assert_array_equal(result[1], label)


@pytest.mark.parametrize("number", range(8))
def test_crop_is_a_window_and_stays_aligned(number):
    """Without scaling, each pixel still tells its label, and the window is found in the photo."""
    image, label = _encoded(40, 50)
    cropped, target = _run(random_scale_crop, image, label, _seed(number), OFF, 24, 32)
    np.testing.assert_array_equal(cropped[..., 0], 10.0 * target)
    windows = np.lib.stride_tricks.sliding_window_view(label, (24, 32))
    assert (windows == target).all((2, 3)).sum() == 1


def test_crops_reach_every_border():
    """Offsets 0..2 and 0..1: 6 windows; 100 draws miss one of them with 6 * (5/6)^100 < 1e-7."""
    _, label = _encoded(6, 5)
    image = np.repeat(label[..., None], 3, 2)
    seen = {
        _run(random_scale_crop, image, label, _seed(i), OFF, 4, 4)[1].tobytes() for i in range(100)
    }
    expected = {label[y : y + 4, x : x + 4].tobytes() for y in range(3) for x in range(2)}
    assert seen == expected


def test_small_image_is_padded_gray_and_ignored():
    image, label = _encoded(10, 12)
    padded, target = _run(random_scale_crop, image, label, _seed(0), OFF, 16, 20)
    np.testing.assert_array_equal(target[:10, :12], label)
    np.testing.assert_array_equal(padded[:10, :12], image)
    outside = np.ones((16, 20), bool)
    outside[:10, :12] = False
    assert set(target[outside]) == {255}
    assert set(padded[outside].ravel()) == {128.0}


@pytest.mark.parametrize(("scale", "crop_width"), [(0.5, 64), (2.0, 160)])
@pytest.mark.parametrize("number", range(3))
def test_scaled_image_and_label_stay_aligned(scale, crop_width, number):
    """Stripes of 16 pixels: away from their borders bilinear pixels are pure and tell the class."""
    label = np.repeat(np.arange(10, dtype=np.uint8), 16)[None].repeat(100, 0)
    image = np.repeat(10 * label[..., None], 3, 2)
    options = Augmentation(scale, scale, flip=False, color_jitter=0.0)
    scaled, target = _run(random_scale_crop, image, label, _seed(number), options, 40, crop_width)
    off = np.abs(scaled[..., 0] - 10.0 * target)
    # A pixel mixes two neighbours, the nearer one names the class: at most half a class away.
    assert off.max() <= 5.0
    # Mixed are at most one source pixel to each side of a border, 2 of 16.
    assert (off > 0).mean() <= 2 / 16
    # Stripes between two borders are 16 * scale wide, and the window holds 80 or 128 pixels.
    widths = np.diff(np.flatnonzero(np.diff(target[0].astype(int))))
    assert len(widths) >= 3
    assert set(widths) == {int(16 * scale)}


def test_scales_lie_in_their_range():
    """A photo of one long ramp: the slope of the crop along x is 1 / scale."""
    ramp = np.arange(200, dtype=np.uint8)[None].repeat(200, 0)
    image = np.repeat(ramp[..., None], 3, 2)
    options = Augmentation(0.5, 2.0, flip=False, color_jitter=0.0)
    slopes = []
    for number in range(60):
        scaled, _ = _run(random_scale_crop, image, ramp, _seed(number), options, 40, 40)
        slopes.append((scaled[0, 30, 0] - scaled[0, 10, 0]) / 20)
    # The window is a whole number of pixels, at least 20 of 40: 1 / scale is off by 0.5 / 40.
    assert 0.5 - 0.02 <= min(slopes) < 0.7
    assert 1.5 < max(slopes) <= 2.0 + 0.02


def test_flip_mirrors_both_or_neither():
    image, label = _encoded(6, 9)
    mirrored = []
    for number in range(40):
        flipped, target = _run(random_flip, image, label, _seed(number))
        np.testing.assert_array_equal(flipped[..., 0], 10 * target)
        mirrored.append((target == label[:, ::-1]).all())
        assert mirrored[-1] or (target == label).all()
    # A fair coin leaves 8..32 of 40 but for a chance of 1e-4; the seeds are fixed.
    assert 8 <= sum(mirrored) <= 32


def test_flip_can_be_switched_off():
    image, label = _encoded(24, 32)
    for number in range(10):
        result = _run(augment, image, label, _seed(number), OFF, 24, 32)
        np.testing.assert_array_equal(result[1], label)


class TestJitter:
    def test_stays_in_range(self):
        """Black and white pixels: brighter or steeper ones are cut off at 0 and at 255."""
        image = np.zeros((4, 4, 3), np.float32)
        image[:, 2:] = 255
        results = [
            jitter_colors(tf.constant(image), _seed(number), strength=0.2).numpy()
            for number in range(20)
        ]
        assert min(result.min() for result in results) == 0
        assert max(result.max() for result in results) == 255
        assert min(result.max() for result in results) < 230  # and darker ones are darker

    def test_flat_gray_changes_by_brightness_alone(self):
        """Contrast and saturation pivot on the mean and the gray: only the first factor acts."""
        image = np.full((4, 5, 3), 100.0, np.float32)
        factors = []
        for number in range(50):
            jittered = jitter_colors(tf.constant(image), _seed(number), strength=0.2).numpy()
            assert np.ptp(jittered) < 1e-3  # rounding of float32 at 100
            factors.append(jittered[0, 0, 0] / 100)
        assert 0.8 <= min(factors) < 0.9
        assert 1.1 < max(factors) <= 1.2

    def test_contrast_and_saturation_by_their_effect(self):
        """Two gray pixels tell the contrast; the distance of a colour from gray, saturation.

        All channels have the mean 100, so gray stays gray.
        """
        image = np.array(
            [[[80, 80, 80], [120, 120, 120], [90, 100, 110], [110, 100, 90]]], np.float32
        )
        contrasts, saturations = [], []
        for number in range(50):
            jittered = jitter_colors(tf.constant(image), _seed(number), strength=0.2).numpy()[0]
            brightness = jittered.mean() / 100  # contrast and saturation keep the mean
            contrast = (jittered[1, 0] - jittered[0, 0]) / 40 / brightness
            contrasts.append(contrast)
            saturations.append((jittered[2, 2] - jittered[2, 0]) / 20 / brightness / contrast)
        for factors in (contrasts, saturations):
            assert 0.8 - 1e-4 <= min(factors) < 0.9
            assert 1.1 < max(factors) <= 1.2 + 1e-4
        # Drawn independently: 50 pairs correlate by 1/7 in the standard deviation.
        assert abs(np.corrcoef(contrasts, saturations)[0, 1]) < 0.5

    def test_five_channels_keep_their_differences(self):
        """No saturation without three channels: all channels get one and the same change."""
        image = np.random.default_rng(0).uniform(100, 140, (8, 8, 1)).astype(np.float32)
        image = image + np.array([0, 5, 10, 15, 20], np.float32)
        jittered = jitter_colors(tf.constant(image), _seed(1), strength=0.1).numpy()
        means = jittered.mean((0, 1))
        brightness = means[0] / image[..., 0].mean()
        np.testing.assert_allclose(means / image.mean((0, 1)), brightness, rtol=1e-5)
        spread = jittered.std((0, 1)) / image.std((0, 1))
        np.testing.assert_allclose(spread, spread[0], rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_scale": 0.0}, "0 < min_scale <= max_scale <= 64; got 0.0 and 2.0"),
        ({"min_scale": 1.5, "max_scale": 1.0}, "got 1.5 and 1.0"),
        ({"color_jitter": 1.0}, "color_jitter must be in \\[0, 1\\); got 1\\.0"),
        ({"color_jitter": -0.1}, "got -0.1"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)


def test_antisymmetric_channels_change_sign_when_mirrored():
    image = np.array([[[10, 100], [20, 128], [30, 255]]], np.float32)
    label = np.array([[1, 2, 3]], np.uint8)
    seen = set()
    for seed in range(8):
        found, classes = random_flip(image, label, _seed(seed), antisymmetric_channels=(1,))
        order = tuple(classes.numpy()[0].tolist())
        seen.add(order)
        expected = image if order == (1, 2, 3) else [[[30, 1], [20, 128], [10, 156]]]
        np.testing.assert_array_equal(found.numpy(), expected)
    assert seen == {(1, 2, 3), (3, 2, 1)}

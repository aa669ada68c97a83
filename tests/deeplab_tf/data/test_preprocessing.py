"""The contract between pixels and network input, in numbers worked out by hand."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.data.preprocessing import Placement, Preprocessing, place, place_label

FIVE = Preprocessing(mean=(0.0, 1.0, 2.0, 3.0, 4.0), std=(1.0, 2.0, 4.0, 8.0, 0.5))


def _in_pipeline(preprocessing, image):
    mapped = tf.data.Dataset.from_tensors(image).map(preprocessing.normalize)
    return next(iter(mapped)).numpy()


def _eager(preprocessing, image):
    return preprocessing.normalize(tf.constant(image)).numpy()


def _numpy(preprocessing, image):
    return preprocessing.normalize(image)


@pytest.mark.parametrize("normalize", [_numpy, _eager, _in_pipeline])
class TestNormalize:
    def test_camera_bytes(self, normalize):
        """(pixel - 128) / 128 is exact in float32: all values are multiples of 1/128."""
        image = np.array([[[0, 128, 255], [64, 192, 1]]], np.uint8)
        result = normalize(Preprocessing(), image)
        assert result.dtype == np.float32
        assert result.tolist() == [[[-1.0, 0.0, 127 / 128], [-0.5, 0.5, -127 / 128]]]

    def test_five_channels_each_with_its_own_mean_and_std(self, normalize):
        """(10-0)/1, (10-1)/2, (10-2)/4, (10-3)/8, (10-4)/0.5: powers of two, exact."""
        image = np.array([[[10, 10, 10, 10, 10]]], np.uint8)
        assert normalize(FIVE, image).tolist() == [[[10.0, 4.5, 2.0, 0.875, 12.0]]]

    def test_float_pixels(self, normalize):
        image = np.array([[[0.5, 128.25, 300.0]]], np.float32)
        assert normalize(Preprocessing(), image).tolist() == [
            [[-127.5 / 128, 0.25 / 128, 172 / 128]]
        ]


def test_uint8_model_takes_camera_bytes_unchanged():
    """real = scale * (quantized - zero_point) equals the normalized pixel for all 256 bytes."""
    scale, zero_point = Preprocessing().uint8_quantization
    assert (scale, zero_point) == (1 / 128, 128)
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 256, 1).repeat(3, 2)
    real = scale * (pixels.astype(np.float64) - zero_point)
    np.testing.assert_array_equal(Preprocessing().normalize(pixels), real)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((128.0, 127.0), (128.0, 128.0)),
        ((128.0, 128.0), (128.0, 64.0)),
        ((127.5,), (127.5,)),
        ((256.0,), (1.0,)),
        ((-1.0,), (1.0,)),
    ],
    ids=["means differ", "stds differ", "between two bytes", "above a byte", "below a byte"],
)
def test_no_uint8_input_where_no_scale_fits(mean, std):
    assert Preprocessing(mean, std).uint8_quantization is None


def test_input_range():
    assert Preprocessing().input_range == (-1.0, 127 / 128)
    assert FIVE.input_range == (-8.0, 502.0)  # (0 - 4) / 0.5 and (255 - 4) / 0.5
    assert FIVE.channels == 5


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((1.0, 2.0), (1.0,), "one value per channel; got 2 and 1"),
        ((), (), "one value per channel; got 0 and 0"),
        ((1.0,), (0.0,), "std must be positive"),
        ((float("nan"), 1.0), (1.0, 1.0), "mean: expected a list, each a finite"),
        ((1.0, 1.0), (1.0, float("nan")), "std: expected a list, each a finite"),
        ((1.0,), (float("inf"),), "std: expected a list, each a finite"),
    ],
)
def test_bad_channels(mean, std, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(mean, std)


class TestPlace:
    def test_exact_fit_is_untouched(self, photo):
        image = photo(6, 8)
        placed, placement = place(image, (6, 8))
        np.testing.assert_array_equal(placed, image)
        assert placement == Placement(6, 8, source_height=6, source_width=8)

    def test_image_that_fits_one_way_is_padded_gray_not_resampled(self, photo):
        image = photo(6, 5)
        placed, placement = place(image, (6, 8))
        np.testing.assert_array_equal(placed[:, :5], image)
        assert (placed[:, 5:] == 128).all()
        assert placement == Placement(6, 5, source_height=6, source_width=5)

    def test_aspect_is_kept(self, photo):
        """30x40 on 12x20: the scale is min(12/30, 20/40) = 0.4, so 12x16."""
        placed, placement = place(photo(30, 40), (12, 20))
        assert placement == Placement(12, 16, source_height=30, source_width=40)
        assert placed.shape == (12, 20, 3)
        assert (placed[:, 16:] == 128).all()

    def test_halving_averages(self):
        """A linear ramp along x: Pillow's widened triangle keeps its straight middle.

        Pixel centres of the half-size image lie at x = 2i + 0.5, so value 8 * (2i + 0.5) =
        16i + 4 away from the borders, where the triangle is cut off.
        """
        image = np.tile((8 * np.arange(32, dtype=np.uint8))[None, :, None], (16, 1, 3))
        placed, _ = place(image, (8, 16))
        assert placed[4, 2:14, 0].tolist() == [16 * i + 4 for i in range(2, 14)]

    def test_five_channels_equal_each_channel_alone(self):
        image = np.random.default_rng(0).integers(0, 256, (10, 14, 5), dtype=np.uint8)
        placed, _ = place(image, (7, 20))
        assert placed.shape == (7, 20, 5)
        for channel in range(5):
            alone, _ = place(image[..., [channel] * 3], (7, 20))
            np.testing.assert_array_equal(placed[..., channel], alone[..., 0])

    def test_one_pixel_fills_the_shorter_side(self):
        placed, placement = place(np.array([[[7, 8, 9]]], np.uint8), (4, 6))
        assert placement == Placement(4, 4, source_height=1, source_width=1)
        assert np.unique(placed[:, :4].reshape(-1, 3), axis=0).tolist() == [[7, 8, 9]]

    def test_a_line_keeps_at_least_one_pixel(self, photo):
        _, placement = place(photo(1, 500), (10, 20))
        assert placement == Placement(1, 20, source_height=1, source_width=500)

    def test_label_by_hand(self):
        """2x4 on 3x2, scale 1/2: 1x2; half-pixel centres take row 1 and columns 1 and 3."""
        label = np.array([[0, 1, 2, 3], [4, 5, 6, 7]], np.uint8)
        assert place_label(label, (3, 2), fill=255).tolist() == [[5, 7], [255, 255], [255, 255]]

    @pytest.mark.parametrize("canvas", [(13, 9), (40, 64), (31, 200), (7, 7)])
    @pytest.mark.parametrize("source", [(30, 41), (5, 3), (1, 1), (64, 8)])
    def test_label_covers_the_same_area_as_the_image(self, canvas, source):
        """The photo is white, so all that is not gray padding is photo."""
        white = np.full((*source, 3), 255, np.uint8)
        placed, placement = place(white, canvas)
        label = place_label(np.zeros(source, np.uint8), canvas, fill=255)
        np.testing.assert_array_equal(label == 0, placed[..., 0] == 255)
        assert (label == 0).sum() == placement.height * placement.width

    @pytest.mark.parametrize("canvas", [(30, 41), (60, 82), (97, 200), (31, 300)])
    def test_round_trip_of_a_canvas_not_smaller_is_exact(self, canvas, mask):
        """Enlarging repeats each pixel at least once, and its middle copy is taken back."""
        label = mask(30, 41, num_classes=200)
        _, placement = place(np.zeros((30, 41, 3), np.uint8), canvas)
        back = placement.restore_label(place_label(label, canvas, fill=255))
        np.testing.assert_array_equal(back, label)

    def test_round_trip_of_a_smaller_canvas_keeps_flat_regions(self):
        """Halves of 20 pixels, shrunk by 4: only the border column may move, by 2 pixels."""
        label = np.zeros((20, 40), np.uint8)
        label[:, 20:] = 1
        _, placement = place(np.zeros((20, 40, 3), np.uint8), (5, 12))
        back = placement.restore_label(place_label(label, (5, 12), fill=255))
        assert back.shape == (20, 40)
        np.testing.assert_array_equal(back[:, :18], label[:, :18])
        np.testing.assert_array_equal(back[:, 22:], label[:, 22:])

    def test_restored_label_keeps_its_type_and_drops_the_padding(self):
        canvas = np.full((4, 6), 99, np.int64)
        canvas[:4, :2] = [[1, 2]] * 4
        restored = Placement(4, 2, source_height=8, source_width=4).restore_label(canvas)
        assert restored.dtype == np.int64
        assert restored.tolist() == [[1, 1, 2, 2]] * 8

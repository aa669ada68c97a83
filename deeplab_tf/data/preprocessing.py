"""The ONE preprocessing contract of training, calibration and evaluation.

    normalized = (pixel - mean) / std,   mean = std = 128 by default

With it, a uint8 model with input scale 1/128 and zero point 128 takes the bytes of a camera
unchanged: real = scale * (quantized - zero_point) = (pixel - 128) / 128. The widespread
x / 127.5 - 1 puts every 8-bit pixel on a rounding tie instead.
"""

import dataclasses
import typing

import numpy as np
from PIL import Image

from deeplab_tf.field_types import check_field_types

PAD_PIXEL = 128
"""Gray of padded pixels: 0 after normalization."""


@dataclasses.dataclass(frozen=True)
class Placement:
    """Position of an image on the canvas of the network's input size, top left.

    Attributes:
        height: height of the image on the canvas.
        width: width of the image on the canvas.
        source_height: height of the original image.
        source_width: width of the original image.
    """

    height: int
    width: int
    source_height: int
    source_width: int

    def restore_label(self, label: np.ndarray) -> np.ndarray:
        """Resizes a class map on the canvas to the original size of the image.

        Args:
            label: integer [canvas height, canvas width].

        Returns:
            The same dtype [source_height, source_width], nearest neighbour, half-pixel centres.
        """
        covered = label[: self.height, : self.width]
        if covered.shape == (self.source_height, self.source_width):
            return covered
        rows = _nearest_indices(self.source_height, self.height)
        columns = _nearest_indices(self.source_width, self.width)
        return covered[rows[:, None], columns]


def _nearest_indices(target: int, source: int) -> np.ndarray:
    """Half-pixel nearest: floor((i + 0.5) * source / target)."""
    return ((np.arange(target) + 0.5) * source / target).astype(np.int64)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Normalization of each channel.

    Attributes:
        mean: one value per channel, in pixel units.
        std: one value per channel, in pixel units.
    """

    mean: tuple[float, ...] = (128.0, 128.0, 128.0)
    std: tuple[float, ...] = (128.0, 128.0, 128.0)

    def __post_init__(self) -> None:
        check_field_types(self)
        if len(self.mean) != len(self.std) or not self.mean:
            raise ValueError(
                "mean and std need one value per channel; got "
                f"{len(self.mean)} and {len(self.std)} values"
            )
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {self.std}")

    @classmethod
    def of(cls, channels: int) -> "Preprocessing":
        """Builds the default, (pixel - 128) / 128, for a number of channels."""
        return cls((float(PAD_PIXEL),) * channels, (float(PAD_PIXEL),) * channels)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.mean)

    def normalize(self, image: typing.Any) -> typing.Any:
        """Computes (pixel - mean) / std, channels last.

        Args:
            image: NumPy array or tensor, uint8 or float [..., height, width, channels].

        Returns:
            float32 of the same kind and shape.
        """
        mean = np.asarray(self.mean, np.float32)
        inverse = np.asarray([1.0 / value for value in self.std], np.float32)
        if isinstance(image, np.ndarray):
            return (image.astype(np.float32) - mean) * inverse
        import tensorflow as tf  # noqa: PLC0415 - child processes of interpreters must not load it

        return (tf.cast(image, tf.float32) - mean) * inverse

    @property
    def input_range(self) -> tuple[float, float]:
        """Smallest and largest normalized value of an 8-bit pixel over all channels."""
        low = min(-mean / std for mean, std in zip(self.mean, self.std, strict=True))
        high = max((255 - mean) / std for mean, std in zip(self.mean, self.std, strict=True))
        return low, high

    @property
    def uint8_quantization(self) -> tuple[float, int] | None:
        """(scale, zero point) of a uint8 input that takes the pixels unchanged.

        None if channels differ or the mean is not a pixel value: then no per-tensor scale exists.
        """
        if len(set(self.mean)) > 1 or len(set(self.std)) > 1:
            return None
        if self.mean[0] % 1 or not 0 <= self.mean[0] <= 255:
            return None
        return 1.0 / self.std[0], int(self.mean[0])


def place(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, Placement]:
    """Scales an image to fit a canvas: aspect ratio kept, top left, padded with gray.

    An image that already fits exactly is not resampled. Others are scaled up or down with Pillow's
    bilinear filter, whose support grows when it shrinks an image (antialiasing).

    Args:
        image: uint8 [source_height, source_width, channels].
        size: (height, width) of the canvas.

    Returns:
        The canvas, uint8 [height, width, channels], and the placement of the image.
    """
    height, width = size
    source_height, source_width = image.shape[:2]
    scale = min(height / source_height, width / source_width)
    placed_height = min(height, max(1, round(source_height * scale)))
    placed_width = min(width, max(1, round(source_width * scale)))
    if (placed_height, placed_width) != (source_height, source_width):
        image = _resize(image, placed_height, width=placed_width)
    placement = Placement(
        placed_height, placed_width, source_height=source_height, source_width=source_width
    )
    if (placed_height, placed_width) == (height, width):
        return image, placement
    canvas = np.full((height, width, image.shape[2]), PAD_PIXEL, np.uint8)
    canvas[:placed_height, :placed_width] = image
    return canvas, placement


def place_label(label: np.ndarray, size: tuple[int, int], *, fill: int) -> np.ndarray:
    """Scales a label map as `place` scales its image: nearest neighbour, padded with `fill`.

    Args:
        label: uint8 [source_height, source_width].
        size: (height, width) of the canvas.
        fill: value of padded pixels.

    Returns:
        uint8 [height, width].
    """
    height, width = size
    scale = min(height / label.shape[0], width / label.shape[1])
    rows = _nearest_indices(min(height, max(1, round(label.shape[0] * scale))), label.shape[0])
    columns = _nearest_indices(min(width, max(1, round(label.shape[1] * scale))), label.shape[1])
    canvas = np.full((height, width), fill, label.dtype)
    canvas[: len(rows), : len(columns)] = label[rows[:, None], columns]
    return canvas


def _resize(image: np.ndarray, height: int, *, width: int) -> np.ndarray:
    """Resizes channel by channel, so that any number of channels works."""
    bilinear = Image.Resampling.BILINEAR
    if image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize((width, height), bilinear))
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), bilinear))
        for plane in np.moveaxis(image, -1, 0)
    ]
    return np.stack(planes, axis=-1)

"""Spherical projection of LiDAR points to a range image, encoded as bytes.

Milioto et al. 2019, RangeNet++, equation 1, for any field of view:

    column = width  * (fov_left - azimuth) / (fov_left - fov_right),  azimuth = atan2(y, x)
    row    = height * (fov_up - elevation) / (fov_up - fov_down),     elevation = asin(z / range)

and each pixel holds the nearest of its points. Its values are encoded as bytes,

    byte = clip(round(128 + 128 * (value - mean) / (SPAN * std)), 0, 255)    for each channel

so that (byte - 128) / 128, the one normalization of this project, is 0 at the channel's mean
and at empty pixels: training, calibration and integer files treat range images like
photographs. The factor SPAN is absorbed by the weights of the first convolution.
"""

import dataclasses
import typing

import numpy as np

from deeplab_tf.data.labels import IGNORE_LABEL
from deeplab_tf.data.lidar.sensor import CHANNELS, Sensor
from deeplab_tf.data.preprocessing import PAD_PIXEL

SPAN = 3.0
"""Standard deviations between byte 128 and either end. Three cover 99.7% of a normal distribution;
a larger value would make the step of one byte, SPAN / 128 of a standard deviation, coarser."""

EDGE_DEGREES = 1.0
"""Points up to this far outside the left or right edge are put in the border column: a measured
field of view leaves out one point in a thousand."""

NO_PIXEL = -1


@dataclasses.dataclass(frozen=True)
class Projection:
    """Pixels of the points of one scan.

    Attributes:
        rows: int32 [points]; NO_PIXEL for points in no pixel: those without a return (range 0)
            and those outside the field of view.
        columns: int32 [points], likewise.
        ranges: float32 [points], metres.
        nearest: int32 [height, width], the nearest point of each pixel, NO_PIXEL if empty.
        full_turn: whether the first and the last column are neighbours.
    """

    rows: np.ndarray
    columns: np.ndarray
    ranges: np.ndarray
    nearest: np.ndarray
    full_turn: bool

    @property
    def placed(self) -> np.ndarray:
        """Bool [points]: whether a point lies in a pixel, possibly hidden by a nearer one."""
        return self.rows != NO_PIXEL

    @property
    def occupied(self) -> np.ndarray:
        """Bool [height, width]: whether a pixel holds a point."""
        return self.nearest != NO_PIXEL

    def to_points(self, values: np.ndarray, fill: typing.Any) -> np.ndarray:
        """Returns the value of the pixel of every point, including hidden points.

        Args:
            values: any dtype [height, width, ...], for example a class map or scores.
            fill: value of points in no pixel.

        Returns:
            The same dtype, [points, ...].
        """
        result = np.full((len(self.rows), *values.shape[2:]), fill, values.dtype)
        placed = self.placed
        result[placed] = values[self.rows[placed], self.columns[placed]]
        return result


def azimuth_elevation(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes direction and distance of each point.

    Args:
        points: float32 [points, 3 or more]; x, y, z in metres.

    Returns:
        Azimuth in -180..180 degrees, elevation in -90..90 degrees, range in metres, each
        float64 [points]; both angles are 0 where the range is 0.
    """
    xyz = points[:, :3].astype(np.float64)
    ranges = np.sqrt((xyz**2).sum(1))
    azimuth = np.degrees(np.arctan2(xyz[:, 1], xyz[:, 0]))
    sine = np.divide(xyz[:, 2], ranges, out=np.zeros_like(ranges), where=ranges > 0)
    return azimuth, np.degrees(np.arcsin(sine.clip(-1, 1))), ranges


def project(points: np.ndarray, sensor: Sensor) -> Projection:
    """Finds the pixel of each point and the nearest point of each pixel.

    Points above or below the field of view are put in the border row, as in RangeNet++. Of equally
    near points the first one is used.

    Args:
        points: float32 [points, 4]; x, y, z in metres, remission. All finite.
        sensor: size and field of view.

    Returns:
        The projection.
    """
    azimuth, elevation, ranges = azimuth_elevation(points)
    turn = sensor.fov_left - sensor.fov_right
    centre = (sensor.fov_left + sensor.fov_right) / 2
    left_of_centre = 180.0 - np.mod(180.0 - (azimuth - centre), 360.0)  # in (-180, 180]
    visible = (ranges > 0) & (np.abs(left_of_centre) <= turn / 2 + EDGE_DEGREES)
    columns = np.floor(sensor.width * (0.5 - left_of_centre / turn))
    rows = np.floor(sensor.height * (sensor.fov_up - elevation) / (sensor.fov_up - sensor.fov_down))
    columns = np.where(visible, columns.clip(0, sensor.width - 1), NO_PIXEL).astype(np.int32)
    rows = np.where(visible, rows.clip(0, sensor.height - 1), NO_PIXEL).astype(np.int32)
    nearest = np.full((sensor.height, sensor.width), NO_PIXEL, np.int32)
    order = np.argsort(ranges, kind="stable")[::-1]  # nearest last: the last write wins
    order = order[visible[order]]
    nearest[rows[order], columns[order]] = order
    return Projection(
        rows, columns, ranges=ranges.astype(np.float32), nearest=nearest, full_turn=sensor.full_turn
    )


def channel_values(points: np.ndarray, projection: Projection) -> np.ndarray:
    """Collects the channels of all pixels that hold a point, in the order of the image.

    Args:
        points: float32 [points, 4].
        projection: of these points.

    Returns:
        float32 [occupied pixels, 5]: range, x, y, z, remission.
    """
    nearest = projection.nearest[projection.occupied]
    return np.concatenate([projection.ranges[nearest, None], points[nearest, :4]], axis=1)


def encode(values: np.ndarray, sensor: Sensor) -> np.ndarray:
    """Encodes channel values as bytes by the formula above; halves are rounded to even.

    Args:
        values: float32 [..., 5].
        sensor: its channel statistics.

    Returns:
        uint8 [..., 5].
    """
    mean, std = np.asarray(sensor.mean, np.float64), np.asarray(sensor.std, np.float64)
    coded = np.rint(PAD_PIXEL + PAD_PIXEL * (values - mean) / (SPAN * std))
    return coded.clip(0, 255).astype(np.uint8)


def range_image(points: np.ndarray, projection: Projection, *, sensor: Sensor) -> np.ndarray:
    """Builds the network's input.

    Args:
        points: float32 [points, 4].
        projection: of these points by this sensor.
        sensor: its channel statistics.

    Returns:
        uint8 [height, width, 5]; 128 in every channel where a pixel is empty.
    """
    image = np.full((*projection.nearest.shape, len(CHANNELS)), PAD_PIXEL, np.uint8)
    image[projection.occupied] = encode(channel_values(points, projection), sensor)
    return image


def pixel_labels(labels: np.ndarray, projection: Projection) -> np.ndarray:
    """Returns the class of the nearest point of each pixel.

    Args:
        labels: uint8 [points].
        projection: of these points.

    Returns:
        uint8 [height, width]; 255 where a pixel is empty.
    """
    image = np.full(projection.nearest.shape, IGNORE_LABEL, np.uint8)
    image[projection.occupied] = labels[projection.nearest[projection.occupied]]
    return image

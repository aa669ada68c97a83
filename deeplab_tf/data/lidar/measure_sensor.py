"""Measures a LiDAR sensor from its scans and writes the `sensor.json` that the reader uses.

    python -m deeplab_tf.data.lidar.measure_sensor --data_dir=SCANS --output_dir=runs/sensor \
        --height=64 --width=512
    python -m deeplab_tf.data.check --dataset=semantic_kitti --data_dir=runs/sensor

Only scans of the training sequences are read. Edges of the field of view that are not given
are chosen so that 99.9% of the points with a return lie between them. Then mean and standard
deviation of each channel are computed over all pixels that hold a point.
"""

import dataclasses
import pathlib
import sys
from collections.abc import Iterable, Iterator

import numpy as np
from absl import flags
from tqdm import tqdm

from deeplab_tf import command
from deeplab_tf.data.lidar.range_image import azimuth_elevation, channel_values, encode, project
from deeplab_tf.data.lidar.sensor import CHANNELS, SENSOR_FILE, Sensor, write_sensor
from deeplab_tf.data.readers.semantic_kitti import LidarDataset, open_split

FLAGS = flags.FLAGS
COVERED_FRACTION = 0.999
"""Fraction of the points between left and right edge, and between upper and lower edge."""
FULL_TURN_DEGREES = 350.0
"""A wider field of view counts as a full turn; no vehicle hides only ten degrees."""
_STEP = 0.05
_EDGES = ("fov_up", "fov_down", "fov_left", "fov_right")


@dataclasses.dataclass
class Coverage:
    """What the range images of some scans hold and lose.

    Attributes:
        scans: number of scans.
        points: number of their points.
        without_return: points of range 0.
        placed: points in a pixel, including those hidden by a nearer one.
        occupied: pixels that hold a point.
        pixels: pixels of all images.
        clipped: int64 [5], per channel, occupied pixels whose byte is 0 or 255.
    """

    scans: int = 0
    points: int = 0
    without_return: int = 0
    placed: int = 0
    occupied: int = 0
    pixels: int = 0
    clipped: np.ndarray = dataclasses.field(
        default_factory=lambda: np.zeros(len(CHANNELS), np.int64)
    )


def field_of_view(scans: Iterable[np.ndarray]) -> dict[str, float]:
    """Finds edges that enclose COVERED_FRACTION of the points with a return.

    The resolution is 0.05 degrees. Elevation leaves out as many points above as below. Azimuth is
    the shortest arc of the circle, so that a sensor may look in any direction.

    Args:
        scans: iterable of float32 [points, 4].

    Returns:
        fov_up, fov_down, fov_left and fov_right in degrees.

    Raises:
        ValueError: no point has a return.
    """
    up_counts = np.zeros(round(180 / _STEP), np.int64)
    turn_counts = np.zeros(round(360 / _STEP), np.int64)
    for points in scans:
        azimuth, elevation, ranges = azimuth_elevation(points)
        for counts, angles, lowest in ((up_counts, elevation, -90), (turn_counts, azimuth, -180)):
            bins = ((angles[ranges > 0] - lowest) / _STEP).astype(np.int64)
            counts += np.bincount(bins.clip(0, len(counts) - 1), minlength=len(counts))
    if not up_counts.any():
        raise ValueError(
            "expected points with a return (range above 0), got none in these scans; check "
            "--data_dir"
        )
    right, left = _shortest_arc(turn_counts)
    below = np.cumsum(up_counts) / up_counts.sum()
    lowest = int(np.searchsorted(below, (1 - COVERED_FRACTION) / 2))
    highest = int(np.searchsorted(below, (1 + COVERED_FRACTION) / 2))
    edges = (90 - (len(up_counts) - highest - 1) * _STEP, -90 + lowest * _STEP, left, right)
    return {name: round(float(edge), 2) for name, edge in zip(_EDGES, edges, strict=True)}


def _shortest_arc(counts: np.ndarray) -> tuple[float, float]:
    """Returns right and left edge, in degrees, of the fewest neighbouring bins.

    The bins hold COVERED_FRACTION of the counts together.
    """
    size = len(counts)
    before = np.concatenate([[0], np.cumsum(np.tile(counts, 2))])
    needed = np.ceil(COVERED_FRACTION * counts.sum())
    ends = np.searchsorted(before, before[:size] + needed)
    first = int(np.argmin(ends - np.arange(size)))
    right, left = (-180 + _STEP * index for index in (first, int(ends[first])))
    if left - right > FULL_TURN_DEGREES:
        return -180.0, 180.0
    turns = 360 * np.floor(((left + right) / 2 + 180) / 360)  # the centre lies in -180..180
    return right - turns, left - turns


def channel_statistics(scans: Iterable[np.ndarray], sensor: Sensor) -> Sensor:
    """Measures mean and standard deviation of each channel over occupied pixels.

    A constant channel gets standard deviation 1: it is byte 128 everywhere.

    Args:
        scans: iterable of float32 [points, 4].
        sensor: size and field of view.

    Returns:
        The sensor with the measured statistics.

    Raises:
        ValueError: no point lies in the field of view.
    """
    count, total, squares = 0, np.zeros(len(CHANNELS)), np.zeros(len(CHANNELS))
    for points in scans:
        values = channel_values(points, project(points, sensor)).astype(np.float64)
        count += len(values)
        total += values.sum(0)
        squares += (values**2).sum(0)
    if not count:
        raise ValueError(
            "expected points in the field of view, got none; omit --fov_up, --fov_down, "
            "--fov_left and --fov_right to measure it"
        )
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 0))
    std = np.where(std < 1e-4, 1.0, std)
    rounded = [tuple(round(float(value), 4) for value in values) for values in (mean, std)]
    return dataclasses.replace(sensor, mean=rounded[0], std=rounded[1])


def coverage(scans: Iterable[np.ndarray], sensor: Sensor) -> Coverage:
    """Counts what a sensor's range images hold and lose.

    Args:
        scans: iterable of float32 [points, 4].
        sensor: that the scans are projected with.

    Returns:
        The counts over all scans.
    """
    found = Coverage()
    for points in scans:
        projection = project(points, sensor)
        codes = encode(channel_values(points, projection), sensor)
        found.scans += 1
        found.points += len(points)
        found.without_return += int((projection.ranges == 0).sum())
        found.placed += int(projection.placed.sum())
        found.occupied += len(codes)
        found.pixels += projection.nearest.size
        found.clipped += ((codes == 0) | (codes == 255)).sum(0)
    return found


def report(sensor: Sensor, found: Coverage) -> str:
    """Formats field of view, channel statistics and what the images lose."""
    returned = found.points - found.without_return
    lines = [
        f"{found.scans} scans, {found.points} points, {found.without_return} without a return",
        f"field of view: up {sensor.fov_up:g}, down {sensor.fov_down:g}, left {sensor.fov_left:g}, "
        f"right {sensor.fov_right:g} degrees; image {sensor.height} x {sensor.width}",
        f"points outside: {1 - found.placed / returned:.2%}; hidden behind a nearer point: "
        f"{1 - found.occupied / max(found.placed, 1):.2%}",
        f"empty pixels: {1 - found.occupied / found.pixels:.2%}",
        f"{'channel':<10} {'mean':>10} {'std':>10} {'clipped':>10}",
    ]
    shares = found.clipped / max(found.occupied, 1)
    for row in zip(CHANNELS, sensor.mean, sensor.std, shares, strict=True):
        lines.append("{:<10} {:>10.4f} {:>10.4f} {:>10.2%}".format(*row))
    return "\n".join(lines) + "\n"


def measure(
    dataset: LidarDataset, height: int, *, width: int, given: dict[str, float], max_scans: int = 0
) -> tuple[Sensor, Coverage]:
    """Measures a sensor from the scans of a data set; each scan is read three times.

    Args:
        dataset: the training scans.
        height: height of the range images.
        width: width of the range images.
        given: edges of the field of view, degrees, that are not measured.
        max_scans: largest number of scans, evenly spread over the list; 0 for all.

    Returns:
        The sensor, and what its range images hold and lose.

    Raises:
        FileNotFoundError: a scan is missing.
        ValueError: a scan is invalid, or the edges contradict each other.
    """
    if max_scans < 0:
        raise ValueError(f"max_scans must not be negative; got {max_scans}")
    count = min(max_scans or len(dataset), len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]

    def scans(what: str) -> Iterator[np.ndarray]:
        bar = tqdm(chosen, desc=what, unit=" scans", file=sys.stderr, disable=None)
        return (dataset.points(index) for index in bar)

    edges = given if len(given) == len(_EDGES) else field_of_view(scans("field of view")) | given
    geometry = Sensor(
        height,
        width,
        fov_up=edges["fov_up"],
        fov_down=edges["fov_down"],
        fov_left=edges["fov_left"],
        fov_right=edges["fov_right"],
    )
    sensor = channel_statistics(scans("channels"), geometry)
    return sensor, coverage(scans("coverage"), sensor)


def _define_flags() -> None:
    flags.DEFINE_string("data_dir", None, "Contains sequences or dataset/sequences.", required=True)
    flags.DEFINE_string("output_dir", None, "Folder for sensor.json.", required=True)
    flags.DEFINE_integer("height", Sensor.height, "Rows of the range image.")
    flags.DEFINE_integer("width", Sensor.width, "Columns of the range image.")
    for name in _EDGES:
        flags.DEFINE_float(name, None, "Edge of the field of view, degrees; default: measured.")
    flags.DEFINE_integer("max_scans", 0, "Largest number of scans, evenly spread; 0 = all.")
    flags.DEFINE_bool("overwrite", False, "Replace an existing sensor.json.")


def main() -> None:
    """Measures the sensor that the flags describe and writes its description."""
    output = pathlib.Path(FLAGS.output_dir) / SENSOR_FILE
    if output.exists() and not FLAGS.overwrite:
        raise FileExistsError(
            f"{output} exists, and networks trained on its images need it; give --overwrite or "
            "another --output_dir"
        )
    data_dir = pathlib.Path(FLAGS.data_dir)
    given = {name: FLAGS[name].value for name in _EDGES if FLAGS[name].value is not None}
    dataset = open_split(data_dir, "train")
    sensor, found = measure(
        dataset, FLAGS.height, width=FLAGS.width, given=given, max_scans=FLAGS.max_scans
    )
    write_sensor(output, sensor, data_dir=dataset.data_dir)
    sys.stdout.write(report(sensor, found) + f"written: {output}\n")


def console() -> None:
    """Runs the command line."""
    _define_flags()
    command.run(main)


if __name__ == "__main__":
    console()

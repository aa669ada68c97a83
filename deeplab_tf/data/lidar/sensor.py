"""Description of a spinning or solid-state LiDAR sensor, as range images need it."""

import dataclasses
import json
import pathlib
import typing

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.field_types import check_field_types

CHANNELS = ("range", "x", "y", "z", "remission")
"""Channels of a range image in the order of RangeNet++ (Milioto et al. 2019): range, x, y and z in
metres, remission as stored."""

SENSOR_FILE = "sensor.json"
MAX_IMAGE_PIXELS = 1 << 24
_DATA_DIR = "data_dir"


@dataclasses.dataclass(frozen=True)
class Sensor:
    """Size, field of view and channel statistics of a sensor's range images.

    Angles are degrees: up from the horizontal plane, and counter-clockwise from +x, so that +y
    lies at +90 and left of +x in the image. A sensor that looks along -x has, for example,
    fov_left=215 and fov_right=145: the image is centred on the middle of the two.

    The defaults are the 64-beam HDL-64E of KITTI. Source of its field of view, means and
    standard deviations: lidar-bonnetal, train/tasks/semantic/config/arch/darknet53.yaml.

    Attributes:
        height: height of the range image.
        width: width of the range image; 512, 1024 and 2048 are usual for 64 beams.
        fov_up: elevation of the upper edge.
        fov_down: elevation of the lower edge.
        fov_left: azimuth of the left edge; +180 for a full turn.
        fov_right: azimuth of the right edge; -180 for a full turn.
        mean: mean of each channel over pixels that hold a point.
        std: standard deviation of each channel over pixels that hold a point.
    """

    height: int = 64
    width: int = 1024
    fov_up: float = 3.0
    fov_down: float = -25.0
    fov_left: float = 180.0
    fov_right: float = -180.0
    mean: tuple[float, ...] = (12.12, 10.88, 0.23, -1.04, 0.21)
    std: tuple[float, ...] = (12.32, 11.47, 6.91, 0.86, 0.16)

    def __post_init__(self) -> None:
        check_field_types(self)
        for size in (self.height, self.width):
            if size < 1:
                raise ValueError(
                    f"height and width must be integers of at least 1; got {self.height!r} and "
                    f"{self.width!r}"
                )
        if self.height * self.width > MAX_IMAGE_PIXELS:
            raise ValueError(
                f"a range image of {self.width}x{self.height} has more than {MAX_IMAGE_PIXELS} "
                "pixels; choose a smaller height or width"
            )
        for name in ("mean", "std"):
            if len(getattr(self, name)) != len(CHANNELS):
                raise ValueError(
                    f"{name} needs one value for each of {', '.join(CHANNELS)}; got "
                    f"{len(getattr(self, name))}"
                )
        self._check_angles()
        if min(self.std) <= 0:
            raise ValueError(f"std must be positive; got {self.std}")

    def _check_angles(self) -> None:
        if not -90 <= self.fov_down < self.fov_up <= 90:
            raise ValueError(
                f"fov_up {self.fov_up} and fov_down {self.fov_down} must lie within -90..90 "
                "degrees, fov_up above fov_down"
            )
        if not 0 < self.fov_left - self.fov_right <= 360:
            raise ValueError(
                f"fov_left {self.fov_left} must be greater than fov_right {self.fov_right}, by at "
                "most 360 degrees; +y is at +90"
            )

    def to_json(self) -> dict[str, typing.Any]:
        """Returns the fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, typing.Any]) -> "Sensor":
        """Builds a sensor from the output of `to_json`."""
        lists = {name: tuple(values[name]) for name in ("mean", "std")}
        return cls(**{**values, **lists})

    def difference(self, other: "Sensor | None") -> str:
        """Lists the fields that differ from another sensor, for messages; "" if none does."""
        if other is None:
            return "no sensor"
        theirs = other.to_json()
        differing = {k: (v, theirs[k]) for k, v in self.to_json().items() if v != theirs[k]}
        return ", ".join(f"{name} {ours} -> {their}" for name, (ours, their) in differing.items())

    @property
    def lateral_axis(self) -> str:
        """Horizontal axis perpendicular to the central viewing direction: "x", "y", or "" if none.

        Mirroring a range image negates this axis.
        """
        middle = (self.fov_left + self.fov_right) / 2 % 180
        return "y" if middle == 0 else "x" if middle == 90 else ""

    @property
    def full_turn(self) -> bool:
        """Whether the left and the right edge of the image are neighbours."""
        return self.fov_left - self.fov_right > 360 - 1e-6


def read_sensor(path: pathlib.Path) -> tuple[Sensor, pathlib.Path | None]:
    """Reads a sensor description, written by `write_sensor` or by hand.

    Missing fields have the values of the default sensor.

    Args:
        path: of the JSON file.

    Returns:
        The sensor, and the folder of the scans that the file names (a relative path is relative to
        the folder of the file), or None.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: not JSON, an unknown key, or a value that is not allowed.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; write it with deeplab_tf.data.lidar.measure_sensor"
        )
    try:
        stored = bounded_file.read_json(path)
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error}); measure the sensor again") from error
    known = [field.name for field in dataclasses.fields(Sensor)]
    if not isinstance(stored, dict) or (unknown := stored.keys() - {*known, _DATA_DIR}):
        problem = f"unknown key {min(unknown)!r}" if isinstance(stored, dict) else "no JSON object"
        raise ValueError(f"{path}: {problem}; known keys: {', '.join((*known, _DATA_DIR))}")
    data_dir = stored.pop(_DATA_DIR, None)
    if data_dir is not None and not isinstance(data_dir, str):
        raise ValueError(f"{path}: data_dir must be the path of a folder; got {data_dir!r}")
    for name in {"mean", "std"} & stored.keys():
        if not isinstance(stored[name], list):
            raise ValueError(f"{path}: {name} must be a list of {len(CHANNELS)} numbers")
        stored[name] = tuple(stored[name])
    try:
        sensor = Sensor(**stored)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    return sensor, None if data_dir is None else path.parent / data_dir


def write_sensor(path: pathlib.Path, sensor: Sensor, *, data_dir: pathlib.Path) -> None:
    """Writes a sensor description with the absolute path of the scans.

    Args:
        path: of the JSON file.
        sensor: the description.
        data_dir: folder of the scans.
    """
    values = dataclasses.asdict(sensor) | {_DATA_DIR: str(data_dir.resolve())}
    atomic_file.write_text(path, json.dumps(values, indent=1) + "\n")

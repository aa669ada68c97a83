"""LiDAR scans in the layout of SemanticKITTI, as range images.

Behley et al. 2019, SemanticKITTI, arXiv:1904.01416. Each scan is
`sequences/NN/velodyne/NAME.bin`, float32 (x, y, z, remission) a point, and
`sequences/NN/labels/NAME.label`, uint32 a point: the class in the lower 16 bits, the instance
above. Sequences 00-07, 09 and 10 are for training, 08 is for validation, as in the benchmark;
the labels of 11-21 are not public.

A scan's image is projected by the sensor that `sensor.json` in the data folder describes, or by
KITTI's own (`deeplab_tf.data.lidar.sensor.Sensor`). A folder with nothing but `sensor.json`
reads the scans that this file names: one set of scans may have several sensors' images.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from deeplab_tf.data.dataset import FileDataset, Sample
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.lidar.range_image import Projection, pixel_labels, project, range_image
from deeplab_tf.data.lidar.sensor import CHANNELS, SENSOR_FILE, Sensor, read_sensor

SEQUENCES = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
}
_WITHOUT_LABELS = "test"
POINT_BYTES = 16
LABEL_BYTES = 4

_CLASSES = (
    ("car", (100, 150, 245), (10, 252)),
    ("bicycle", (100, 230, 245), (11,)),
    ("motorcycle", (30, 60, 150), (15,)),
    ("truck", (80, 30, 180), (18, 258)),
    # bus, on-rails and other-vehicle, standing and moving
    ("other-vehicle", (0, 0, 255), (13, 16, 20, 256, 257, 259)),
    ("person", (255, 30, 30), (30, 254)),
    ("bicyclist", (255, 40, 200), (31, 253)),
    ("motorcyclist", (150, 30, 90), (32, 255)),
    ("road", (255, 0, 255), (40, 60)),  # 60: lane marking
    ("parking", (255, 150, 255), (44,)),
    ("sidewalk", (75, 0, 75), (48,)),
    ("other-ground", (175, 0, 75), (49,)),
    ("building", (255, 200, 0), (50,)),
    ("fence", (255, 120, 50), (51,)),
    ("vegetation", (0, 175, 0), (70,)),
    ("trunk", (135, 60, 0), (71,)),
    ("terrain", (150, 240, 80), (72,)),
    ("pole", (255, 240, 150), (80,)),
    ("traffic-sign", (255, 0, 0), (81,)),
)
"""Name, colour and stored ids of each class. Source: learning_map, learning_map_inv and color_map
of semantic-kitti.yaml (semantic-kitti-api); class k here is its class k + 1."""

_UNLABELLED = (0, 1, 52, 99)
"""Unlabelled, outlier, other-structure, other-object: its class 0, not evaluated."""

LABEL_SET = LabelSet(
    tuple(name for name, _, _ in _CLASSES), tuple(color for _, color, _ in _CLASSES)
)


def id_table() -> np.ndarray:
    """Class of each stored id, int16 [260]: 0..18, 255 (ignored), or -1 for unknown ids."""
    table = np.full(260, -1, np.int16)
    table[list(_UNLABELLED)] = IGNORE_LABEL
    for index, (_, _, stored) in enumerate(_CLASSES):
        table[list(stored)] = index
    return table


@dataclasses.dataclass(frozen=True)
class LidarDataset(FileDataset):
    """Scans as range images of one sensor.

    Attributes:
        sensor: that all scans are projected by.
    """

    sensor: Sensor
    channels = len(CHANNELS)
    photographs = False

    @property
    def antisymmetric_channels(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """What a mirror turns that stands along the sensor's view: None for an oblique one."""
        across = self.sensor.across
        return (CHANNELS.index(across),) if across else None

    def points(self, index: int) -> np.ndarray:
        """float32 [points, 4]: x, y, z in metres and remission, as stored.

        Raises:
            FileNotFoundError, ValueError: naming the file at fault.
        """
        return read_points(self.data_dir / self.samples[index].image)

    def point_labels(self, index: int, num_points: int) -> np.ndarray:
        """uint8 [points], 0..18 or 255 (ignored).

        Args:
            num_points: of the scan.

        Raises:
            FileNotFoundError, ValueError: no file, an unknown class id, or another number of
                labels than points.
        """
        path = self.data_dir / self.samples[index].label
        stored = read_label_ids(path)
        if len(stored) != num_points:
            raise ValueError(
                f"{path}: {len(stored)} labels for the {num_points} points of "
                f"{self.samples[index].image}; a scan needs one label a point"
            )
        known = stored < len(self.id_table)
        labels = np.where(known, self.id_table[np.where(known, stored, 0)], -1)
        if labels.min() < 0:
            raise ValueError(self._unknown_id(path, stored[labels < 0][0]))
        return labels.astype(np.uint8)

    def projection(self, points: np.ndarray) -> Projection:
        """Row and column of each point, and the nearest point of each pixel."""
        return project(points, self.sensor)

    def image(self, index: int) -> np.ndarray:
        """uint8 [height, width, 5]: range, x, y, z, remission; 128 where a pixel is empty."""
        points = self.points(index)
        return range_image(points, self.projection(points), sensor=self.sensor)

    def label(self, index: int) -> np.ndarray:
        """uint8 [height, width] of each pixel's nearest point; 255 where a pixel is empty."""
        return self.read(index)[1]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        points = self.points(index)
        labels = self.point_labels(index, len(points))
        projection = self.projection(points)
        return range_image(points, projection, sensor=self.sensor), pixel_labels(labels, projection)


def open_split(data_dir: pathlib.Path, split: str) -> LidarDataset:
    """Opens the scans of a split.

    Sequences that are missing are named in the log; one must be there.

    Args:
        data_dir: holds `dataset/sequences` or `sequences` and perhaps `sensor.json`, or nothing
            but a `sensor.json` that names the folder of the scans.
        split: train or val.

    Raises:
        FileNotFoundError: no such layout, or none of the split's sequences.
        ValueError: unknown split, a split without labels, a scan without labels or labels
            without a scan, or a bad `sensor.json`.
    """
    if split == _WITHOUT_LABELS:
        raise ValueError(
            "semantic_kitti: the labels of split 'test' (sequences 11-21) are not public; use val"
        )
    if split not in SEQUENCES:
        raise ValueError(f"semantic_kitti: unknown split {split!r}; known: {', '.join(SEQUENCES)}")
    root, sensor = _find_scans(data_dir)
    present = [name for name in SEQUENCES[split] if (root / "sequences" / name).is_dir()]
    missing = [name for name in SEQUENCES[split] if name not in present]
    if not present:
        raise FileNotFoundError(
            f"{root / 'sequences'}: none of {', '.join(missing)}, the sequences of split {split!r}"
        )
    if missing:
        logging.warning("%s: sequences missing: %s", root, ", ".join(missing))
    samples = tuple(sample for name in present for sample in _pairs(root, f"sequences/{name}"))
    return LidarDataset("semantic_kitti", split, LABEL_SET, root, samples, id_table(), sensor)


def _find_scans(data_dir: pathlib.Path) -> tuple[pathlib.Path, Sensor]:
    """The folder that holds `sequences`, and the sensor."""
    described = data_dir / SENSOR_FILE
    sensor, named = read_sensor(described) if described.is_file() else (Sensor(), None)
    for folder in (data_dir, named):
        for root in (folder / "dataset", folder) if folder else ():
            if (root / "sequences").is_dir():
                return root, sensor
    if named:
        raise FileNotFoundError(f"{described}: its data_dir {named} holds no sequences; correct it")
    raise FileNotFoundError(
        f"{data_dir}: neither dataset/sequences nor sequences nor {SENSOR_FILE} in it; give the "
        "folder that holds dataset/sequences/00/velodyne and labels"
    )


def _pairs(root: pathlib.Path, sequence: str) -> list[Sample]:
    scans = {path.stem for path in (root / sequence / "velodyne").glob("*.bin")}
    labels = {path.stem for path in (root / sequence / "labels").glob("*.label")}
    for lonely, rule in (
        (scans - labels, "labels/{}.label is missing beside velodyne/{}.bin"),
        (labels - scans, "velodyne/{}.bin is missing beside labels/{}.label"),
    ):
        if lonely:
            name = min(lonely)
            more = f", and {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise ValueError(
                f"{root / sequence}: {rule.format(name, name)}{more}; add or remove it"
            )
    return [
        Sample(f"{sequence}/velodyne/{stem}.bin", f"{sequence}/labels/{stem}.label")
        for stem in sorted(scans)
    ]


def read_points(path: pathlib.Path) -> np.ndarray:
    """Reads a scan.

    Returns:
        float32 [points, 4]: x, y, z, remission.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no points, a size that is not whole points, or values that are not finite.
    """
    content = _read(path, "scan", unit=POINT_BYTES, layout="4 float32 (x, y, z, remission) a point")
    points = np.frombuffer(content, "<f4").reshape(-1, 4)
    if not len(points):
        raise ValueError(f"{path}: holds no points; remove the scan and its labels")
    broken = ~np.isfinite(points).all(1)
    if broken.any():
        raise ValueError(
            f"{path}: {broken.sum()} points are not finite, the first is number "
            f"{broken.argmax()}; remove them, with their labels"
        )
    return points


def read_label_ids(path: pathlib.Path) -> np.ndarray:
    """Reads the stored class ids of a scan.

    Returns:
        int64 [points], 0..65535: the lower 16 bits; the instance above them is left out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a size that is not whole labels.
    """
    content = _read(path, "labels", unit=LABEL_BYTES, layout="one uint32 a point")
    return (np.frombuffer(content, "<u4") & 0xFFFF).astype(np.int64)


def _read(path: pathlib.Path, kind: str, *, unit: int, layout: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check --data_dir")
    content = path.read_bytes()
    if len(content) % unit:
        raise ValueError(
            f"{path}: {len(content)} bytes are no multiple of {unit}; {kind} must be {layout}, "
            "so the file is cut or of another format"
        )
    return content

"""LiDAR scans in the layout of SemanticKITTI, as range images.

Behley et al. 2019, SemanticKITTI, arXiv:1904.01416. Each scan is
`sequences/NN/velodyne/NAME.bin`, four float32 (x, y, z, remission) per point, and
`sequences/NN/labels/NAME.label`, one uint32 per point: the class in the lower 16 bits, the instance
in the upper 16. Sequences 00-07, 09 and 10 are for training, 08 is for validation, as in the
benchmark; the labels of 11-21 are not public.

Scans are projected with the sensor that `sensor.json` in the data folder describes, or with KITTI's
own (`deeplab_tf.data.lidar.sensor.Sensor`). A folder that holds only `sensor.json` refers to the
scans in the folder that this file names, so one set of scans can be projected by several sensors.
"""

import dataclasses
import pathlib

import numpy as np
from absl import logging

from deeplab_tf import bounded_file
from deeplab_tf.data.dataset import FileDataset, Sample, SegmentationDataset
from deeplab_tf.data.labels import IGNORE_LABEL, LabelSet
from deeplab_tf.data.lidar.range_image import Projection, pixel_labels, project, range_image
from deeplab_tf.data.lidar.sensor import CHANNELS, SENSOR_FILE, Sensor, read_sensor

SEQUENCES = {
    "train": ("00", "01", "02", "03", "04", "05", "06", "07", "09", "10"),
    "val": ("08",),
}
_WITHOUT_LABELS = "test"
POINT_BYTES = 16
LARGEST_SCAN_BYTES = 1_000_000_000
"""More than any sensor gives in one turn: 62 million points."""
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
    """Returns the class of each stored id, int16 [260]: 0..18, 255 (ignored), -1 for unknown."""
    table = np.full(260, -1, np.int16)
    table[list(_UNLABELLED)] = IGNORE_LABEL
    for index, (_, _, stored) in enumerate(_CLASSES):
        table[list(stored)] = index
    return table


@dataclasses.dataclass(frozen=True)
class LidarDataset(FileDataset):
    """Scans as range images of one sensor.

    Attributes:
        sensor: sensor that all scans are projected with.
        channels: of a range image.
    """

    sensor: Sensor
    channels: int = dataclasses.field(default=len(CHANNELS), kw_only=True)
    photographs = False

    def with_channels(self, channels: int) -> SegmentationDataset:
        """Returns the data set itself: range images have one form."""
        return SegmentationDataset.with_channels(self, channels)

    @property
    def antisymmetric_channels(self) -> tuple[int, ...] | None:  # type: ignore[override]
        """Channel that mirroring the image negates; None if the sensor looks along no axis."""
        axis = self.sensor.lateral_axis
        return (CHANNELS.index(axis),) if axis else None

    def points(self, index: int) -> np.ndarray:
        """Reads the points of a scan.

        Args:
            index: of the scan.

        Returns:
            float32 [points, 4]: x, y, z in metres and remission, as stored.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is invalid.
        """
        return read_points(self.data_dir / self.samples[index].image)

    def point_labels(self, index: int, num_points: int) -> np.ndarray:
        """Reads the classes of the points of a scan.

        Args:
            index: of the scan.
            num_points: number of points of the scan.

        Returns:
            uint8 [points], 0..18 or 255 (ignored).

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: an unknown class id, or the numbers of labels and points differ.
        """
        path = self.data_dir / self.samples[index].label
        stored = read_label_ids(path)
        if len(stored) != num_points:
            raise ValueError(
                f"{path}: expected one label per point, got {len(stored)} labels for the "
                f"{num_points} points of {self.samples[index].image}"
            )
        known = stored < len(self.id_table)
        labels = np.where(known, self.id_table[np.where(known, stored, 0)], -1)
        if labels.min() < 0:
            raise self._unknown_id(path, stored[labels < 0][0], raw=stored)
        return labels.astype(np.uint8)

    def projection(self, points: np.ndarray) -> Projection:
        """Projects points with the sensor of the data set.

        Args:
            points: float32 [points, 4].

        Returns:
            Row and column of each point, and the nearest point of each pixel.
        """
        return project(points, self.sensor)

    def image(self, index: int) -> np.ndarray:
        """Builds a range image.

        Args:
            index: of the scan.

        Returns:
            uint8 [height, width, 5]: range, x, y, z, remission; 128 where a pixel is empty.
        """
        points = self.points(index)
        return range_image(points, self.projection(points), sensor=self.sensor)

    def label(self, index: int) -> np.ndarray:
        """Builds the label map of a range image.

        Args:
            index: of the scan.

        Returns:
            uint8 [height, width], class of each pixel's nearest point; 255 where a pixel is empty.
        """
        return self.read(index)[1]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads image and label of a scan; see `image` and `label`."""
        points = self.points(index)
        labels = self.point_labels(index, len(points))
        projection = self.projection(points)
        return range_image(points, projection, sensor=self.sensor), pixel_labels(labels, projection)


def open_split(data_dir: pathlib.Path, split: str) -> LidarDataset:
    """Opens the scans of a split.

    Missing sequences are named in the log; at least one must exist.

    Args:
        data_dir: contains `dataset/sequences` or `sequences` and optionally `sensor.json`, or only
            a `sensor.json` that names the folder of the scans.
        split: train or val.

    Returns:
        The split.

    Raises:
        FileNotFoundError: no such layout, or none of the split's sequences.
        ValueError: unknown split, a split without labels, a scan without labels or labels
            without a scan, or an invalid `sensor.json`.
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
    """Returns the folder that contains `sequences`, and the sensor."""
    described = data_dir / SENSOR_FILE
    sensor, named = read_sensor(described) if described.is_file() else (Sensor(), None)
    for folder in (data_dir, named):
        for root in (folder / "dataset", folder) if folder else ():
            if (root / "sequences").is_dir():
                return root, sensor
    if named:
        raise FileNotFoundError(
            f"{described}: its data_dir {named} contains no sequences; correct it"
        )
    raise FileNotFoundError(
        f"{data_dir}: expected dataset/sequences, sequences or {SENSOR_FILE} in it; give the "
        "folder that contains dataset/sequences/00/velodyne and labels"
    )


def _pairs(root: pathlib.Path, sequence: str) -> list[Sample]:
    scans = {path.stem for path in (root / sequence / "velodyne").glob("*.bin")}
    labels = {path.stem for path in (root / sequence / "labels").glob("*.label")}
    for unpaired, rule in (
        (scans - labels, "velodyne/{0}.bin has no labels/{0}.label"),
        (labels - scans, "labels/{0}.label has no velodyne/{0}.bin"),
    ):
        if unpaired:
            more = f", and {len(unpaired) - 1} more" if len(unpaired) > 1 else ""
            raise ValueError(
                f"{root / sequence}: {rule.format(min(unpaired))}{more}; add the missing file or "
                "remove this one"
            )
    return [
        Sample(f"{sequence}/velodyne/{stem}.bin", f"{sequence}/labels/{stem}.label", group=sequence)
        for stem in sorted(scans)
    ]


def read_points(path: pathlib.Path) -> np.ndarray:
    """Reads a scan.

    Args:
        path: of the `.bin` file.

    Returns:
        float32 [points, 4]: x, y, z, remission.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: no points, an incomplete point, or values that are not finite.
    """
    layout = "4 float32 (x, y, z, remission) per point"
    content = _read(path, "a scan", unit=POINT_BYTES, layout=layout)
    points = np.frombuffer(content, "<f4").reshape(-1, 4)
    if not len(points):
        raise ValueError(f"{path}: contains no points; remove the scan and its labels")
    broken = ~np.isfinite(points).all(1)
    if broken.any():
        raise ValueError(
            f"{path}: {broken.sum()} points are not finite, the first is number "
            f"{broken.argmax()}; remove them and their labels"
        )
    return points


def read_label_ids(path: pathlib.Path) -> np.ndarray:
    """Reads the stored class ids of a scan.

    Args:
        path: of the `.label` file.

    Returns:
        int64 [points], 0..65535: the lower 16 bits, without the instance.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an incomplete label.
    """
    content = _read(path, "a label file", unit=LABEL_BYTES, layout="one uint32 per point")
    return (np.frombuffer(content, "<u4") & 0xFFFF).astype(np.int64)


def _read(path: pathlib.Path, kind: str, *, unit: int, layout: str) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; check --data_dir")
    content = bounded_file.read_bytes(path, limit=LARGEST_SCAN_BYTES)
    if len(content) % unit:
        raise ValueError(
            f"{path}: {len(content)} bytes are not a multiple of {unit}; {kind} has {layout}, "
            "so the file is truncated or has another format"
        )
    return content

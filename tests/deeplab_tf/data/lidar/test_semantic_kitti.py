"""The reader and the sensor's measurement on real scans, and on what users get wrong."""

import json
import pickle

import numpy as np
import pytest

from deeplab_tf.data.lidar import measure_sensor
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.readers import semantic_kitti
from deeplab_tf.data.registry import open_dataset
from tests.children import run_command


def write_scan(root, sequence="00", name="000000", points=None, ids=None):
    """A scan with its labels: a ring of road points around the sensor by default."""
    if points is None:
        turn = np.linspace(-3, 3, 40)
        points = np.stack([10 * np.cos(turn), 10 * np.sin(turn), turn - 3, abs(turn) / 3], 1)
    ids = np.full(len(points), 40) if ids is None else ids
    for folder, ending, content in (
        ("velodyne", "bin", np.asarray(points, "<f4")),
        ("labels", "label", np.asarray(ids, "<u4")),
    ):
        path = root / "sequences" / sequence / folder / f"{name}.{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.tobytes())
    return root


def measure(*flags):
    done = run_command("deeplab_tf.data.lidar.measure_sensor", *flags, timeout=120)
    return done.returncode, done.stdout, done.stderr


def test_table_of_ids():
    """Written out from semantic-kitti.yaml, whose class 0 is ignored and class k is k - 1 here."""
    official = dict.fromkeys((0, 1, 52, 99), 0)
    official |= {10: 1, 11: 2, 13: 5, 15: 3, 16: 5, 18: 4, 20: 5, 30: 6, 31: 7, 32: 8, 40: 9}
    official |= {44: 10, 48: 11, 49: 12, 50: 13, 51: 14, 60: 9, 70: 15, 71: 16, 72: 17, 80: 18}
    official |= {81: 19, 252: 1, 253: 7, 254: 6, 255: 8, 256: 5, 257: 5, 258: 4, 259: 5}
    table = semantic_kitti.id_table()
    assert len(official) == 34
    expected = {raw: 255 if index == 0 else index - 1 for raw, index in official.items()}
    assert {raw: table[raw] for raw in np.flatnonzero(table >= 0).tolist()} == expected
    names = semantic_kitti.LABEL_SET.names
    assert [names[table[raw]] for raw in (252, 13, 60, 70, 81)] == [
        "car",
        "other-vehicle",
        "road",
        "vegetation",
        "traffic-sign",
    ]


class TestRealScans:
    def test_splits(self, shared_dir):
        root = shared_dir / "data/lidar/semantic_kitti_format"
        training = open_dataset("semantic_kitti", root, split="train")
        validation = open_dataset("semantic_kitti", root / "dataset", split="val")
        assert [len(training), len(validation)] == [60, 6]
        assert {s.image.split("/")[1] for s in validation.samples} == {"08"}
        assert "08" not in {s.image.split("/")[1] for s in training.samples}

    def test_image_and_labels(self, shared_dir):
        root = shared_dir / "data/lidar/semantic_kitti_format"
        dataset = semantic_kitti.open_split(root, "val")
        dataset = pickle.loads(pickle.dumps(dataset))
        image, label = dataset.read(3)
        assert (image.shape, image.dtype, dataset.channels) == ((64, 1024, 5), np.uint8, 5)
        np.testing.assert_array_equal(image, dataset.image(3))
        np.testing.assert_array_equal(label, dataset.label(3))
        stored = np.fromfile(root / "dataset" / dataset.samples[3].label, np.uint32) & 0xFFFF
        present = set(np.unique(stored).tolist()) - {0, 1, 52, 99}
        table = semantic_kitti.id_table()
        assert set(np.unique(label).tolist()) == {int(table[raw]) for raw in present} | {255}
        assert (label[(image == 128).all(2)] == 255).all()

    def test_measured_sensor(self, shared_dir):
        """The solid-state sensor of these scans sees 70.4 degrees both ways, along +x."""
        root = shared_dir / "data/lidar/semantic_kitti_format"
        dataset = semantic_kitti.open_split(root, "train")
        sensor, found = measure_sensor.measure(dataset, 64, width=512, given={}, max_scans=12)
        assert sensor.fov_left == pytest.approx(35.2, abs=0.3)
        assert sensor.fov_right == pytest.approx(-35.2, abs=0.3)
        assert sensor.fov_down == pytest.approx(-35.2, abs=0.3)
        assert 30 < sensor.fov_up < 35.3
        assert found.scans == 12
        values = []
        for index in range(0, 60, 5):  # twelve of sixty, evenly spread
            image = dataset.points(index)
            projection = measure_sensor.project(image, sensor)
            values.append(image[projection.nearest[projection.occupied]])
        values = np.concatenate(values)
        np.testing.assert_allclose(sensor.mean[1:], values.mean(0), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(sensor.std[1:], values.std(0), rtol=1e-3, atol=1e-3)
        assert found.occupied == len(values)

    def test_full_turn_is_found(self, shared_dir):
        points = semantic_kitti.read_points(shared_dir / "data/lidar/rangenet_000000.bin")
        edges = measure_sensor.field_of_view([points])
        assert (edges["fov_left"], edges["fov_right"]) == (180.0, -180.0)
        assert edges["fov_up"] == pytest.approx(3.0, abs=0.5)
        assert edges["fov_down"] == pytest.approx(-25.0, abs=0.6)


def test_field_of_view_across_the_seam():
    """Evenly from 150 over 180 to -170 degrees, with one stray point in front of 4000."""
    azimuth = np.radians(np.append(np.linspace(150, 190, 4000), 0))
    points = np.stack([np.cos(azimuth), np.sin(azimuth), 0 * azimuth, 0 * azimuth], 1) * 10
    edges = measure_sensor.field_of_view([points.astype(np.float32)])
    assert edges["fov_right"] == pytest.approx(150, abs=0.11)
    assert edges["fov_left"] == pytest.approx(190, abs=0.11)
    with pytest.raises(ValueError, match="expected points with a return"):
        measure_sensor.field_of_view([np.zeros((3, 4), np.float32)])


class TestCommand:
    def test_sensor_file_is_a_data_folder(self, tmp_path):
        root = write_scan(tmp_path / "scans/dataset")
        write_scan(root, "08", points=[[5, 0, 0, 1], [0, 5, 0, 1]], ids=[70 | 3 << 16, 52])
        flags = (f"--data_dir={root.parent}", f"--output_dir={tmp_path}/s", "--height=16")
        status, output, errors = measure(*flags, "--width=32", "--fov_up=20", "--fov_down=-40")
        assert status == 0, errors
        assert "1 scans, 40 points, 0 without a return" in output
        stored = json.loads((tmp_path / "s/sensor.json").read_text())
        assert (stored["height"], stored["fov_up"], stored["fov_down"]) == (16, 20, -40)
        assert stored["data_dir"] == str(root)
        dataset = open_dataset("semantic_kitti", tmp_path / "s", split="val")
        assert dataset.sensor.width == 32
        assert dataset.image(0).shape == (16, 32, 5)
        assert sorted(np.unique(dataset.label(0))) == [14, 255]  # the instance is left out
        status, _, errors = measure(*flags)
        assert status == 1
        assert "error: " in errors
        assert "give --overwrite" in errors

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (("--fov_up=-50",), "fov_up -50"),
            (("--height=0",), "integers of at least 1"),
            (("--max_scans=-1",), "max_scans must not be negative"),
            (("--fov_left=100", "--fov_right=99"), "expected points in the field of view"),
        ],
    )
    def test_bad_flags_end_with_one_line(self, tmp_path, flags, message):
        points = [[5, 0, 0, 1], [5, 1, 0.2, 1], [5, -1, -0.2, 1]]
        root = write_scan(tmp_path / "scans", points=points)
        status, _, errors = measure(f"--data_dir={root}", f"--output_dir={tmp_path}/s", *flags)
        assert status == 1
        lines = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        assert message in lines[0]
        assert not (tmp_path / "s").exists()


class TestFaults:
    def open(self, root):
        return semantic_kitti.open_split(root, "train")

    @pytest.mark.parametrize(
        ("points", "ids", "message"),
        [
            (
                [[1, 0, 0, 1]] * 2,
                [40] * 3,
                r"000000\.label: expected one label per point, got 3 labels for the 2",
            ),
            (np.zeros((0, 4)), [], r"000000\.bin: contains no points"),
            ([[1, 0, 0, 1], [np.nan, 0, 0, 1]], [40] * 2, r"000000\.bin: 1 points are not finite"),
            ([[np.inf, 0, 0, 1]], [40], r"000000\.bin: 1 points are not finite, the first is num"),
            ([[1, 0, 0, 1]], [45], r"000000\.label: class id 45 is unknown to semantic_kitti"),
            ([[1, 0, 0, 1]], [60000], r"000000\.label: class id 60000 is unknown"),
        ],
    )
    def test_bad_content(self, tmp_path, points, ids, message):
        root = write_scan(tmp_path, points=points, ids=ids)
        with pytest.raises(ValueError, match=message):
            self.open(root).read(0)

    def test_cut_files(self, tmp_path):
        dataset = self.open(write_scan(tmp_path))
        for name, unit in (("velodyne/000000.bin", 16), ("labels/000000.label", 4)):
            path = tmp_path / "sequences/00" / name
            path.write_bytes(path.read_bytes()[:-1])
            with pytest.raises(
                ValueError, match=rf"{path.name}: \d+ bytes are not a multiple of {unit}"
            ):
                (dataset.image if unit == 16 else lambda _: dataset.point_labels(0, 40))(0)

    def test_scan_of_far_points_does_not_overflow(self, tmp_path):
        root = write_scan(tmp_path, points=[[1e30, 0, 0, 1], [0, 0, 0, 0]], ids=[40, 0])
        image, label = self.open(root).read(0)
        assert (label != 255).sum() == 1
        assert image[label != 255].tolist()[0][:2] == [255, 255]

    @pytest.mark.parametrize(
        ("gone", "message"),
        [
            ("labels/000000.label", r"velodyne/000000\.bin has no labels/000000\.label"),
            ("velodyne/000000.bin", r"labels/000000\.label has no velodyne/000000\.bin"),
        ],
    )
    def test_half_a_scan(self, tmp_path, gone, message):
        write_scan(tmp_path, name="000001")
        write_scan(tmp_path)
        (tmp_path / "sequences/00" / gone).unlink()
        with pytest.raises(ValueError, match=message):
            self.open(tmp_path)

    def test_splits_and_folders(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"expected dataset/sequences, sequences or s"):
            semantic_kitti.open_split(tmp_path, "val")
        write_scan(tmp_path)
        with pytest.raises(FileNotFoundError, match="none of 08, the sequences of split 'val'"):
            semantic_kitti.open_split(tmp_path, "val")
        with pytest.raises(ValueError, match=r"split 'test' \(sequences 11-21\) are not public"):
            semantic_kitti.open_split(tmp_path, "test")
        with pytest.raises(ValueError, match="unknown split 'x'; known: train, val"):
            semantic_kitti.open_split(tmp_path, "x")

    def test_sensor_file_next_to_the_scans_and_a_missing_folder(self, tmp_path):
        write_scan(tmp_path / "scans")
        assert self.open(tmp_path / "scans").sensor == Sensor()
        (tmp_path / "scans/sensor.json").write_text('{"width": 512}')
        assert self.open(tmp_path / "scans").sensor.width == 512
        (tmp_path / "sensor.json").write_text('{"width": 256, "data_dir": "scans"}')
        assert self.open(tmp_path).image(0).shape == (64, 256, 5)
        (tmp_path / "sensor.json").write_text('{"data_dir": "gone"}')
        with pytest.raises(
            FileNotFoundError, match=r"data_dir .*gone contains no sequences; correct"
        ):
            self.open(tmp_path)

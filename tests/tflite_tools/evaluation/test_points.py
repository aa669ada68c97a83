"""Class maps back on LiDAR points: by hand, against a slow second version, and as a command."""

import dataclasses
import math

import numpy as np
import pytest

from deeplab_tf.data.lidar import range_image
from deeplab_tf.data.lidar.sensor import Sensor
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.readers import semantic_kitti
from deeplab_tf.data.readers.semantic_kitti import open_split
from deeplab_tf.metrics import confusion
from tests.children import run_command
from tests.paths import ROOT
from tflite_tools.evaluation.points import (
    Neighbours,
    Scan,
    benchmark_mean_iou,
    classes_of_points,
    vote,
)
from tflite_tools.manifest import Manifest, sha256_of

STRIP = Sensor(1, 9, fov_up=20.0, fov_down=-20.0, fov_left=45.0, fov_right=-45.0)
"""One row, columns of 10 degrees."""


def _at(columns, ranges):
    """Points in the middle of columns of STRIP."""
    azimuth = np.radians(40 - 10 * np.asarray(columns))
    flat = np.asarray(ranges)
    points = [flat * np.cos(azimuth), flat * np.sin(azimuth), 0 * flat, 0 * flat]
    return np.stack(points, 1).astype(np.float32)


def test_hidden_points_take_the_class_in_front_and_the_vote_corrects_them():
    """A pole at 4 m in column 4 hides one point of the wall at 10 m, which is seen beside it."""
    columns, ranges = [2, 3, 4, 4, 5, 6], [10, 10, 4, 10, 10, 10]
    found = range_image.project(_at(columns, ranges), STRIP)
    assert found.columns.tolist() == columns
    class_map = np.full((1, 9), 7, np.uint8)
    class_map[0, 4] = 2
    assert classes_of_points(class_map, found).tolist() == [7, 7, 2, 2, 7, 7]
    # The hidden point: its own pixel votes 2, the four wall pixels vote 7. The pole itself is
    # 6 m from all others, beyond the cutoff, and keeps its own vote alone.
    assert vote(class_map, found, num_classes=19, options=Neighbours()).tolist() == [
        7,
        7,
        2,
        7,
        7,
        7,
    ]


def test_vote_options_by_hand():
    """Own at 10 m in column 4, wall at 10.1 m beside it, something at 10.6 m further out."""
    found = range_image.project(_at([2, 3, 4, 5, 6], [10.6, 10.1, 10, 10.1, 10.6]), STRIP)
    class_map = np.array([[0, 0, 1, 5, 3, 5, 1, 0, 0]], np.uint8)
    middle = 2
    # All five within the cutoff: 1, 5, 3, 5, 1: two votes each for 1 and 5, the lower wins.
    assert vote(class_map, found, num_classes=19, options=Neighbours())[middle] == 1
    # The three nearest: 3 and the two 5.
    assert vote(class_map, found, num_classes=19, options=Neighbours(count=3))[middle] == 5
    # 0.6 m is weighted by 1 - exp(-2) / 6.17 = 0.978 at this place: beyond a cutoff of 0.5.
    assert vote(class_map, found, num_classes=19, options=Neighbours(cutoff=0.5))[middle] == 5
    assert vote(class_map, found, num_classes=19, options=Neighbours(count=1))[middle] == 3
    # Classes that do not exist cast no vote; a point without any vote keeps its pixel's value.
    assert vote(class_map, found, num_classes=3, options=Neighbours())[middle] == 1
    assert (
        vote(np.full((1, 9), 255, np.uint8), found, num_classes=3, options=Neighbours())[middle]
        == 255
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "window must be odd and hold count neighbours; got window 4 and count 5"),
        ({"count": 26}, "got window 5 and count 26"),
        ({"count": 0}, "got window 5 and count 0"),
        ({"sigma": 0.0}, r"sigma and cutoff must be positive; got 0\.0"),
        ({"cutoff": -1.0}, "sigma and cutoff must be positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        Neighbours(**options)


def _slow_vote(class_map, projection, num_classes, options, point):
    """One point after the other, from the paper's text."""
    row, column = int(projection.rows[point]), int(projection.columns[point])
    if row < 0:
        return 255
    height, width = class_map.shape
    half = options.window // 2
    steps = [(r, c) for r in range(-half, half + 1) for c in range(-half, half + 1)]
    bell = {(r, c): math.exp(-(r * r + c * c) / (2 * options.sigma**2)) for r, c in steps}
    total = sum(bell.values())
    own = projection.ranges[point]
    candidates = []
    for order, (r, c) in enumerate(steps):
        y, x = row + r, column + c
        if projection.full_turn:
            x %= width
        if not (0 <= y < height and 0 <= x < width) or projection.nearest[y, x] < 0:
            continue
        there = own if (r, c) == (0, 0) else projection.ranges[projection.nearest[y, x]]
        distance = np.float32(abs(there - own)) * np.float32(1 - bell[r, c] / total)
        candidates.append((distance, order, int(class_map[y, x])))
    votes = [0] * num_classes
    for distance, _, vote_for in sorted(candidates)[: options.count]:
        if distance <= options.cutoff and vote_for < num_classes:
            votes[vote_for] += 1
    return votes.index(max(votes)) if any(votes) else int(class_map[row, column])


@pytest.mark.parametrize(
    "options", [Neighbours(), Neighbours(count=3, window=7, sigma=2.0, cutoff=0.4)]
)
def test_vote_equals_the_slow_one_on_a_real_full_turn(shared_dir, options):
    points = semantic_kitti.read_points(shared_dir / "data/lidar/rangenet_000000.bin")
    found = range_image.project(points, Sensor(width=512))
    classes = np.random.default_rng(0).integers(0, 21, (64, 512)).astype(np.uint8)
    classes[classes == 20] = 255
    fast = vote(classes, found, num_classes=19, options=options)
    seam = np.flatnonzero((found.columns < 3) | (found.columns > 508))[::5]
    chosen = np.concatenate([np.arange(0, len(points), 97), seam])
    slow = [_slow_vote(classes, found, 19, options, point) for point in chosen]
    np.testing.assert_array_equal(fast[chosen], slow)
    assert (fast != classes_of_points(classes, found)).mean() > 0.3  # the vote did something


def test_vote_on_a_real_narrow_scan(shared_dir):
    """Labels of pixels brought back: the vote repairs most of what hidden points lose."""
    root = shared_dir / "data/lidar/semantic_kitti_format"
    dataset = semantic_kitti.open_split(root, "val")
    sensor = Sensor(64, 512, fov_up=34.05, fov_down=-35.25, fov_left=35.25, fov_right=-35.3)
    dataset = dataclasses.replace(dataset, sensor=sensor)
    totals = np.zeros((2, 19, 20), np.int64)
    for index in range(len(dataset)):
        points = dataset.points(index)
        labels = dataset.point_labels(index, len(points))
        found = dataset.projection(points)
        assert (found.ranges[~found.placed] == 0).all()
        class_map = range_image.pixel_labels(labels, found)
        totals += Scan(
            np.zeros(0), labels, projection=found, num_classes=19, neighbours=Neighbours()
        ).score(class_map)
        some = np.arange(0, len(points), 211)
        slow = [_slow_vote(class_map, found, 19, Neighbours(), point) for point in some]
        np.testing.assert_array_equal(
            vote(class_map, found, num_classes=19, options=Neighbours())[some], slow
        )
    plain, voted = (confusion.mean_iou(matrix)[0] for matrix in totals)
    assert 0.75 < plain < voted < 0.95


def test_means_of_project_and_benchmark():
    """Class 0: 3 of 4 points found, 1 false; class 1: 1 of 2; class 2 never occurs."""
    labels = np.array([0, 0, 0, 0, 1, 1, 255, 255], np.uint8)
    prediction = np.array([0, 0, 0, 1, 1, 0, 2, 1], np.uint8)
    matrix = confusion.confusion_matrix(labels, prediction, num_classes=3)
    ious = (3 / 5, 1 / 3)  # the unlabelled points count nowhere
    assert confusion.mean_iou(matrix) == (pytest.approx(sum(ious) / 2), 2)
    assert benchmark_mean_iou(matrix) == pytest.approx(sum(ious) / 3)


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Two scans of a wall of cars on the left, y > 0, and road on the right; most points hidden."""
    root = tmp_path_factory.mktemp("scans")
    for name in ("000000", "000001"):
        rng = np.random.default_rng(int(name))
        azimuth, elevation = rng.uniform(-44, 44, 3000), rng.uniform(-19, 19, 3000)
        ranges = rng.uniform(9.6, 10.4, 3000)
        ranges[:50] = 11  # unlabelled, and never in front of a labelled point
        a, e = np.radians(azimuth), np.radians(elevation)
        points = np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], 1)
        points = np.column_stack([points * ranges[:, None], rng.random(3000)])
        ids = np.where(azimuth > 0, 10, 40)
        ids[:50] = 0
        for folder, ending, content in (
            ("velodyne", "bin", points.astype("<f4")),
            ("labels", "label", ids.astype("<u4")),
        ):
            path = root / "sequences/08" / folder / f"{name}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.tobytes())
    (root / "sensor.json").write_text(
        '{"height": 16, "width": 64, "fov_up": 20, "fov_down": -20, "fov_left": 45, '
        '"fov_right": -45, "mean": [10, 8, 0, 0, 0.5], "std": [1, 2, 4, 3, 0.3]}'
    )
    return root


@pytest.fixture(scope="module")
def sign_of_y(tmp_path_factory):
    """A network of one 1x1 convolution: car where y > 0, road elsewhere; 19 classes, 16 x 64."""
    import tensorflow as tf  # noqa: PLC0415
    import tf_keras as keras  # noqa: PLC0415

    image = keras.Input((16, 64, 5), batch_size=1, name="image")
    layer = keras.layers.Conv2D(19, 1, name="logits")
    model = keras.Model(image, layer(image))
    kernel, bias = np.zeros((1, 1, 5, 19), np.float32), np.full(19, -9, np.float32)
    kernel[0, 0, 2, 0], kernel[0, 0, 2, 8] = 1, -1
    bias[[0, 8]] = 0
    layer.set_weights([kernel, bias])
    function = tf.function(model).get_concrete_function(image.type_spec)
    content = tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert()
    path = tmp_path_factory.mktemp("model") / "sign.tflite"
    path.write_bytes(content)
    return path


def command(*flags):
    done = run_command("tflite_tools.evaluate_points", *map(str, flags), timeout=200)
    return done.returncode, done.stdout, done.stderr


def test_command_scores_points(scans, sign_of_y, tmp_path):
    """The network knows the truth up to points beside column 32, which y = 0 divides."""
    broken = tmp_path / "other.tflite"
    broken.write_bytes((ROOT / "zoo/camvid_deeplab_mobilenet_v2/int8.tflite").read_bytes())
    flags = (f"--model={sign_of_y},{broken}", f"--data_dir={scans}", "--processes=1", "--knn")
    status, output, errors = command(*flags)
    assert status == 1, errors
    rows = {line.split("  ")[0]: line.split() for line in output.splitlines() if line}
    assert set(rows) >= {"sign", "sign + knn", "labels", "labels + knn", "car", "road"}
    # Byte 128 +- 4 of y lies within 0.4 m of the middle: the points there may be taken wrongly.
    assert 97 < float(rows["sign"][1]) <= 100
    assert float(rows["labels"][1]) == 100  # no pixel holds points of both classes
    assert rows["sign"][3] == "2"
    expected = float(rows["sign"][2]) * 2 / 19
    assert float(rows["sign"][4]) == pytest.approx(expected, abs=0.01)
    ious = [float(rows[name][1]) for name in ("car", "road")]
    assert np.mean(ious) == pytest.approx(float(rows["sign"][2]), abs=0.01)
    assert rows["truck"][1:] == ["-"] * 4
    assert "2 scans, 5900 labelled points" in output
    assert "other: FAILED: expected 5 channels (semantic_kitti), got 3" in output


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        ((), 2, "--model"),
        (("--model=gone.tflite",), 1, "gone.tflite: no such file"),
        (("--model=MODEL", "--split=test"), 1, "labels of split 'test'"),
        (("--model=MODEL", "--limit=-1"), 1, "limit must not be negative"),
        (("--model=MODEL", "--data_dir=gone"), 1, "gone: no such folder"),
    ],
)
def test_bad_flags_end_with_one_line(scans, sign_of_y, flags, status, message):
    flags = [flag.replace("MODEL", str(sign_of_y)) for flag in flags]
    code, _, errors = command(f"--data_dir={scans}", *flags)
    lines = [line for line in errors.splitlines() if line.startswith("error: ")]
    assert code == status
    assert len(lines) == 1, errors
    assert message in lines[0]


def test_scans_of_another_sensor_are_refused(scans, sign_of_y, tmp_path):
    """The statistics that bytes stand for are the sensor's: the manifest knows whose."""
    model = tmp_path / "sign.tflite"
    model.write_bytes(sign_of_y.read_bytes())
    dataset = open_split(scans, "val")
    sensor = dataclasses.replace(dataset.sensor, std=(1.0, 2.0, 4.0, 3.0, 0.6))
    manifest = Manifest(
        "float32",
        "logits",
        height=16,
        width=64,
        preprocessing=Preprocessing.of(5),
        label_set=dataset.label_set,
        input_dtype="float32",
        output_dtype="float32",
        input_quantization=None,
        output_quantization=None,
        calibration=None,
        source="a test",
        versions={},
        sha256=sha256_of(model.read_bytes()),
        size_bytes=model.stat().st_size,
        sensor=sensor,
    )
    manifest.write(model.with_suffix(".json"))
    status, output, errors = command(f"--model={model}", f"--data_dir={scans}", "--processes=1")
    assert status == 1, errors
    assert "another sensor" in output + errors
    assert "std" in output + errors
    assert Manifest.from_json(manifest.to_json()).sensor == sensor
    dataclasses.replace(manifest, sensor=dataset.sensor).write(model.with_suffix(".json"))
    assert command(f"--model={model}", f"--data_dir={scans}", "--processes=1")[0] == 0


def test_a_broken_scan_is_named_and_no_file_is_blamed(scans, sign_of_y, tmp_path):
    for path in scans.rglob("*.*"):
        copy = tmp_path / path.relative_to(scans)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())
    (tmp_path / "sequences/08/velodyne/000001.bin").write_bytes(b"1234")
    status, output, errors = command(f"--model={sign_of_y}", f"--data_dir={tmp_path}")
    assert status == 1
    lines = [line for line in errors.splitlines() if "error: " in line]
    assert len(lines) == 1
    assert "000001.bin: 4 bytes are not a multiple of 16" in lines[0]
    assert output == ""

"""Projection and coding against values worked by hand, a slow second version and real scans."""

import dataclasses
import math

import numpy as np
import pytest

from deeplab_tf.data.lidar import range_image
from deeplab_tf.data.lidar.range_image import NO_PIXEL
from deeplab_tf.data.lidar.sensor import Sensor, read_sensor, write_sensor
from deeplab_tf.data.preprocessing import Preprocessing, place
from deeplab_tf.data.readers import semantic_kitti

SMALL = Sensor(
    4, 8, fov_up=20.0, fov_down=-20.0, mean=(10, 0, 0, -1, 0.5), std=(4, 2, 2, 0.5, 0.25)
)
"""Rows of 10 degrees, columns of 45 degrees."""


def _point(azimuth, elevation, distance=10.0, remission=0.5):
    a, e = math.radians(azimuth), math.radians(elevation)
    flat = distance * math.cos(e)
    return [flat * math.cos(a), flat * math.sin(a), distance * math.sin(e), remission]


def _points(*rows):
    return np.array(rows, np.float32)


@pytest.mark.parametrize(
    ("azimuth", "elevation", "row", "column"),
    [
        (170, 15, 0, 0),  # behind to the left, top
        (100, 5, 1, 1),  # left
        (10, -5, 2, 3),
        (-10, -15, 3, 4),
        (-100, 1, 1, 6),  # right
        (-170, 1, 1, 7),  # behind to the right
        (1, 40, 0, 3),  # above the field of view: the border row
        (1, -40, 3, 3),
    ],
)
def test_pixel_of_a_direction(azimuth, elevation, row, column):
    found = range_image.project(_points(_point(azimuth, elevation)), SMALL)
    assert (found.rows[0], found.columns[0]) == (row, column)
    assert found.nearest[row, column] == 0
    assert found.occupied.sum() == 1


@pytest.mark.parametrize(
    ("left", "right", "columns"),
    [
        (45, -45, {40: 0, 1: 3, -1: 4, -40: 7, 45.9: 0, -45.9: 7, 47: None, 180: None}),
        (135, 45, {130: 0, 91: 3, 89: 4, 50: 7, 0: None, -90: None}),  # looks along +y
        (225, 135, {-140: 0, -179: 3, 179: 4, 140: 7, 0: None}),  # looks along -x
    ],
)
def test_narrow_sensors_look_anywhere(left, right, columns):
    sensor = dataclasses.replace(SMALL, fov_left=left, fov_right=right)
    found = range_image.project(_points(*(_point(azimuth, 0.1) for azimuth in columns)), sensor)
    expected = [NO_PIXEL if column is None else column for column in columns.values()]
    assert found.columns.tolist() == expected
    assert (found.rows == NO_PIXEL).tolist() == [column is None for column in columns.values()]


def test_nearest_point_wins_and_hidden_ones_keep_their_pixel():
    points = _points(_point(10, -5, 9), _point(11, -5, 4), _point(12, -5, 6), [0, 0, 0, 0.3])
    found = range_image.project(points, SMALL)
    assert found.nearest[2, 3] == 1
    assert found.placed.tolist() == [True, True, True, False]  # range 0 has no direction
    np.testing.assert_allclose(found.ranges, [9, 4, 6, 0], rtol=1e-6)
    labels = np.array([5, 6, 7, 8], np.uint8)
    assert range_image.pixel_labels(labels, found)[2, 3] == 6
    classes = np.full((4, 8), 1, np.uint8)
    classes[2, 3] = 9
    assert found.to_points(classes, 255).tolist() == [9, 9, 9, 255]
    scores = np.zeros((4, 8, 2))
    scores[2, 3] = (0.25, 0.75)
    assert found.to_points(scores, 0)[:, 1].tolist() == [0.75, 0.75, 0.75, 0]


def test_bytes_of_values():
    """mean, +-1.5 and +-3 standard deviations; 128 steps are three of them."""
    mean, std = np.array(SMALL.mean), np.array(SMALL.std)
    for deviation, byte in ((0, 128), (1.5, 192), (-1.5, 64), (-3, 0), (3, 255), (9, 255), (-9, 0)):
        assert range_image.encode(mean + deviation * std, SMALL).tolist() == [byte] * 5
    # 12.12 + 3 * 12.32 / 128 is one byte further out than the mean of KITTI's range.
    one_byte = np.float32([12.12 + 3 * 12.32 / 128, 10.88, 0.23, -1.04, 0.21])
    assert range_image.encode(one_byte, Sensor()).tolist() == [129, 128, 128, 128, 128]


def test_image_is_zero_for_the_network_where_it_is_empty():
    points = _points(_point(10, -5, 9, 0.75))
    found = range_image.project(points, SMALL)
    image = range_image.range_image(points, found, sensor=SMALL)
    assert image.shape == (4, 8, 5)
    assert image.dtype == np.uint8
    normalized = Preprocessing((128.0,) * 5, (128.0,) * 5).normalize(image)
    assert not normalized[~found.occupied].any()
    values = np.array([9, *points[0]]) - SMALL.mean
    expected = values / (3 * np.array(SMALL.std))  # within the ends: y is 1.56, x 8.83 -> clipped
    np.testing.assert_allclose(
        normalized[2, 3], expected.clip(-1, 127 / 128), atol=0.5 / 128 + 1e-6
    )
    padded, _ = place(image, (8, 8))
    assert (padded[4:] == 128).all()


def _reference(points, height, width, up, down):
    """The formulas of RangeNet++ for a full turn, point by point."""
    nearest: dict[tuple[int, int], tuple[float, int]] = {}
    for index, (x, y, z, _) in enumerate(points.tolist()):
        depth = math.sqrt(x * x + y * y + z * z)
        yaw, pitch = -math.atan2(y, x), math.asin(z / depth)
        column = 0.5 * (yaw / math.pi + 1.0) * width
        row = (1.0 - (pitch + abs(math.radians(down))) / math.radians(abs(up) + abs(down))) * height
        pixel = (min(height - 1, max(0, int(row // 1))), min(width - 1, int(column // 1)))
        nearest[pixel] = min(nearest.get(pixel, (math.inf, -1)), (depth, index))
    return nearest


def test_real_scan_equals_the_published_formulas(shared_dir):
    path = shared_dir / "data/lidar/rangenet_000000.bin"
    points = semantic_kitti.read_points(path)[::4]
    found = range_image.project(points, Sensor(width=512))
    expected = _reference(points, 64, 512, 3.0, -25.0)
    rows, columns = np.nonzero(found.occupied)
    ours = {
        (r, c): found.nearest[r, c] for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
    }
    theirs = {pixel: index for pixel, (_, index) in expected.items()}
    # Rounding of a direction that lies on a pixel's edge may differ between the two.
    assert len(ours.items() ^ theirs.items()) <= 4


def test_real_scan_has_sky_above_and_road_below(shared_dir):
    points = semantic_kitti.read_points(shared_dir / "data/lidar/rangenet_000000.bin")
    sensor = Sensor()
    found = range_image.project(points, sensor)
    values = np.full((64, 1024, 5), np.nan)
    values[found.occupied] = range_image.channel_values(points, found)
    assert np.nanmedian(values[40:60, :, 3]) == pytest.approx(-1.7, abs=0.15)  # mounted at 1.73 m
    assert np.nanmedian(values[:16, :, 0]) > 2 * np.nanmedian(values[40:60, :, 0])
    # +y is left of the middle, where the sensor looks along +x.
    assert np.nanmin(values[:, 256, 2]) > 0 > np.nanmax(values[:, 768, 2])
    assert np.nanmin(values[:, 512, 1]) > 0 > np.nanmax(values[:, 1023, 1])
    np.testing.assert_allclose(
        np.linalg.norm(values[found.occupied][:, 1:4], axis=1), values[found.occupied][:, 0], 1e-5
    )


def test_squeezesegs_images_have_the_same_orientation(shared_dir):
    """Somebody else's projection of KITTI: 64 beams from the top, 90 degrees in 512 columns."""
    path = shared_dir / "data/lidar/kitti_range_images/2011_09_26_0001_0000000010.npy"
    stored = np.load(path)
    rows, columns = np.nonzero(stored[:, :, 4] > 0)
    points = stored[rows, columns][:, :4].astype(np.float32)
    sensor = Sensor(width=512, fov_left=45.0, fov_right=-45.0)
    found = range_image.project(points, sensor)
    np.testing.assert_allclose(found.ranges, stored[rows, columns, 4], rtol=1e-3, atol=1e-3)
    assert found.placed.mean() > 0.99
    assert np.abs(found.columns - columns)[found.placed].max() <= 4
    assert np.corrcoef(found.rows[found.placed], rows[found.placed])[0, 1] > 0.97


@pytest.mark.parametrize(
    ("fov_left", "fov_right", "across"),
    [(45, -45, "y"), (225, 135, "y"), (135, 45, "x"), (-45, -135, "x"), (180, -180, "y")],
)
def test_a_mirrored_image_is_the_image_of_a_mirrored_scene(fov_left, fov_right, across):
    mean, std = (5, 0, 0, 0, 0.5), (4, 5, 5, 2, 0.25)
    sensor = Sensor(
        8,
        16,
        fov_up=20.0,
        fov_down=-20.0,
        fov_left=float(fov_left),
        fov_right=float(fov_right),
        mean=mean,
        std=std,
    )
    assert sensor.lateral_axis == across
    rng = np.random.default_rng(3)
    azimuth = np.radians(rng.uniform(fov_right + 1, fov_left - 1, 400))
    distance = rng.uniform(3, 9, 400)
    points = np.stack(
        [distance * np.cos(azimuth), distance * np.sin(azimuth), rng.uniform(-1, 1, 400)], 1
    )
    points = np.hstack([points, rng.uniform(0, 1, (400, 1))]).astype(np.float32)
    mirrored = points * np.where(np.arange(4) == "xy".index(across), -1, 1).astype(np.float32)
    images = [
        range_image.range_image(p, range_image.project(p, sensor), sensor=sensor)
        for p in (points, mirrored)
    ]
    channel = range_image.CHANNELS.index(across)
    expected = images[0][:, ::-1].astype(int)
    expected[..., channel] = 256 - expected[..., channel]
    differs = np.abs(expected - images[1]).max(-1) > 1
    assert differs.mean() < 0.05  # a point on the edge between two pixels may fall either way


def test_a_sensor_that_looks_askew_has_no_mirror():
    assert Sensor(fov_left=90.0, fov_right=0.0).lateral_axis == ""


class TestSensor:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"height": 0}, "integers of at least 1; got 0"),
            ({"width": 512.0}, r"width: expected an integer of 32 bits, got 512\.0"),
            ({"height": 1 << 20}, "has more than 16777216 pixels"),
            ({"fov_up": -30.0}, r"fov_up -30\.0 and fov_down -25\.0 must lie within"),
            ({"fov_up": 91.0}, "must lie within -90..90"),
            ({"fov_left": -180.0}, r"fov_left -180\.0 must be greater than fov_right"),
            ({"fov_left": 200.0}, "by at most 360 degrees"),
            ({"mean": (1.0, 2.0)}, "mean needs one value for each of range, x, y, z, remission"),
            ({"std": (1.0, 1.0, 0.0, 1.0, 1.0)}, "std must be positive"),
            ({"fov_up": math.nan}, "fov_up: expected a finite number, got nan"),
        ],
    )
    def test_bad_values(self, changes, message):
        with pytest.raises(ValueError, match=message):
            Sensor(**changes)

    def test_written_file_is_read_unchanged(self, tmp_path):
        write_sensor(tmp_path / "a/sensor.json", SMALL, data_dir=tmp_path / "scans")
        assert read_sensor(tmp_path / "a/sensor.json") == (SMALL, tmp_path / "scans")

    def test_fields_left_out_are_kittis(self, tmp_path):
        (tmp_path / "sensor.json").write_text('{"width": 2048, "data_dir": "../scans"}')
        sensor, data_dir = read_sensor(tmp_path / "sensor.json")
        assert sensor == Sensor(width=2048)
        assert data_dir == tmp_path / "../scans"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", r"sensor\.json: not JSON"),
            ("[]", r"sensor\.json: no JSON object; known keys: height"),
            ('{"fov": 3}', r"sensor\.json: unknown key 'fov'; known keys: height"),
            ('{"mean": 3}', "mean must be a list of 5 numbers"),
            ('{"std": [1, 1, 1, 1, "a"]}', r"sensor\.json: std: expected a list, each a finite"),
            ('{"fov_up": "3"}', r"sensor\.json: fov_up: expected a finite number"),
            ('{"data_dir": 3}', "data_dir must be the path of a folder; got 3"),
            ('{"height": 0}', r"sensor\.json: height and width must be integers"),
        ],
    )
    def test_bad_files(self, tmp_path, text, message):
        (tmp_path / "sensor.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            read_sensor(tmp_path / "sensor.json")

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"no such file; write it with"):
            read_sensor(tmp_path / "sensor.json")

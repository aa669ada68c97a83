"""Synthetic street scenes, drawn from a seed: a data set that needs no download.

Sky, ground, a road in perspective, buildings with windows, trees, poles and vehicles, with
occlusion, changes of scale and light, and sensor noise. It is no substitute for photographs: it
shows that the pipeline from training to `.tflite` works, and nothing about accuracy on real scenes.
"""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.labels import LabelSet

LABEL_SET = LabelSet(
    names=("sky", "ground", "road", "building", "tree", "pole", "vehicle"),
    colors=(
        (70, 130, 180),
        (152, 251, 152),
        (128, 64, 128),
        (150, 90, 70),
        (34, 110, 34),
        (230, 220, 90),
        (0, 0, 142),
    ),
)
SKY, GROUND, ROAD, BUILDING, TREE, POLE, VEHICLE = range(7)
HEIGHT, WIDTH = 192, 256
SPLITS = {"train": (0, 400), "val": (1_000_000, 60), "test": (2_000_000, 60)}
"""First seed and number of scenes of each split; the seeds of the splits do not overlap."""

_Color = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class SyntheticDataset(SegmentationDataset):
    """A split of synthetic scenes; each sample is a function of its seed alone.

    Attributes:
        split: key of `SPLITS`.
        name: name in the registry.
        label_set: the classes.
    """

    split: str
    name: str = "synthetic"
    label_set: LabelSet = LABEL_SET

    def __len__(self) -> int:
        return SPLITS[self.split][1]

    def sample_name(self, index: int) -> str:
        """Returns the seed of the sample, as text."""
        return f"seed {self._seed(index)}"

    def group(self, index: int) -> str:
        """Returns the sample's own name: scenes are drawn independently."""
        return self.sample_name(index)

    def _seed(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"expected a sample index of 0 to {len(self) - 1}, got {index}")
        return SPLITS[self.split][0] + index

    def image(self, index: int) -> np.ndarray:
        """Draws the image of a sample, uint8 [192, 256, 3], RGB."""
        return self.read(index)[0]

    def label(self, index: int) -> np.ndarray:
        """Draws the label map of a sample, uint8 [192, 256]."""
        return self.read(index)[1]

    def read(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws image and label of a sample; see `draw_scene`."""
        return draw_scene(self._seed(index))


def open_split(data_dir: pathlib.Path, split: str) -> SyntheticDataset:
    """Opens a split.

    Args:
        data_dir: not used, nothing is read.
        split: key of `SPLITS`.

    Returns:
        The split.

    Raises:
        ValueError: unknown split.
    """
    del data_dir
    if split not in SPLITS:
        raise ValueError(f"synthetic: unknown split {split!r}; known: {', '.join(SPLITS)}")
    return SyntheticDataset(split)


class _Scene:
    """Draws the same shapes on an image and on its label map."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.image = Image.new("RGB", (WIDTH, HEIGHT))
        self.label = Image.new("L", (WIDTH, HEIGHT))
        self._draw_image = ImageDraw.Draw(self.image)
        self._draw_label = ImageDraw.Draw(self.label)

    def color(self, base: Sequence[int] | np.ndarray, spread: int = 25) -> _Color:
        """Returns a random colour around `base`, with standard deviation `spread`."""
        red, green, blue = (int(v) for v in np.clip(self.rng.normal(base, spread), 0, 255))
        return red, green, blue

    def polygon(self, points: Sequence[tuple[float, float]], color: _Color, *, label: int) -> None:
        self._draw_image.polygon(points, fill=color)
        self._draw_label.polygon(points, fill=label)

    def box(
        self, left: float, top: float, *, right: float, bottom: float, color: _Color, label: int
    ) -> None:
        corners = [left, top, max(left, right), max(top, bottom)]
        self._draw_image.rectangle(corners, fill=color)
        self._draw_label.rectangle(corners, fill=label)

    def ellipse(
        self, left: float, top: float, *, right: float, bottom: float, color: _Color, label: int
    ) -> None:
        corners = [left, top, max(left, right), max(top, bottom)]
        self._draw_image.ellipse(corners, fill=color)
        self._draw_label.ellipse(corners, fill=label)


def draw_scene(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws a scene.

    Args:
        seed: determines the scene.

    Returns:
        The image, uint8 [192, 256, 3], RGB, and the label map, uint8 [192, 256], 0..6.
    """
    scene = _Scene(np.random.default_rng(seed))
    horizon = scene.rng.uniform(0.35, 0.55) * HEIGHT
    scene.box(0, 0, right=WIDTH, bottom=HEIGHT, color=scene.color((150, 180, 215)), label=SKY)
    scene.box(
        0, horizon, right=WIDTH, bottom=HEIGHT, color=scene.color((105, 140, 75), 18), label=GROUND
    )
    vanishing = scene.rng.uniform(0.3, 0.7) * WIDTH
    half = scene.rng.uniform(0.3, 0.6) * WIDTH
    _buildings(scene, horizon)
    _road(scene, horizon, vanishing=vanishing, half=half)
    things = [_tree] * scene.rng.integers(1, 5) + [_pole] * scene.rng.integers(1, 4)
    things += [_vehicle] * scene.rng.integers(1, 4)
    placed = [(scene.rng.uniform(0.08, 0.75), thing) for thing in things]
    for depth, thing in sorted(placed, key=lambda pair: pair[0]):  # near objects hide far ones
        thing(scene, horizon + depth * (HEIGHT - horizon), depth, vanishing, half)
    return _add_light_and_noise(scene), np.asarray(scene.label)


def _buildings(scene: _Scene, horizon: float) -> None:
    left = scene.rng.uniform(-40, 40)
    while left < WIDTH:
        width = scene.rng.uniform(25, 80)
        if scene.rng.random() < 0.7:
            top = horizon - scene.rng.uniform(18, 85)
            wall = scene.color((150, 115, 95), 30)
            scene.box(left, top, right=left + width, bottom=horizon + 3, color=wall, label=BUILDING)
            window = scene.color((70, 75, 90), 20)
            step = scene.rng.uniform(9, 15)
            for x in np.arange(left + 4, left + width - 6, step):
                for y in np.arange(top + 5, horizon - 6, step):
                    scene.box(
                        x,
                        y,
                        right=x + step * 0.4,
                        bottom=y + step * 0.5,
                        color=window,
                        label=BUILDING,
                    )
        left += width + scene.rng.uniform(0, 25)


def _road(scene: _Scene, horizon: float, *, vanishing: float, half: float) -> None:
    bottom = vanishing + scene.rng.uniform(-30, 30)
    far = [(vanishing - 4, horizon), (vanishing + 4, horizon)]
    near = [(bottom + half, HEIGHT), (bottom - half, HEIGHT)]
    scene.polygon([*far, *near], scene.color((95, 95, 100), 15), label=ROAD)
    stripe = scene.color((215, 215, 210), 10)
    for depth in np.arange(0.15, 1.0, 0.2):
        y, size = horizon + depth * (HEIGHT - horizon), depth * 9
        x = vanishing + depth * (bottom - vanishing)
        scene.box(x - size / 6, y, right=x + size / 6, bottom=y + size, color=stripe, label=ROAD)


def _roadside_position(scene: _Scene, depth: float, *, vanishing: float, half: float) -> float:
    side = scene.rng.choice((-1, 1))
    return vanishing + side * (depth * half + scene.rng.uniform(8, 90))


def _tree(scene: _Scene, base: float, depth: float, vanishing: float, half: float) -> None:
    x, size = _roadside_position(scene, depth, vanishing=vanishing, half=half), 22 + 75 * depth
    trunk = scene.color((85, 60, 40), 12)
    scene.box(
        x - size * 0.06,
        base - size * 0.45,
        right=x + size * 0.06,
        bottom=base,
        color=trunk,
        label=TREE,
    )
    for _ in range(4):
        dx, dy = scene.rng.uniform(-0.2, 0.2, 2) * size
        radius = size * scene.rng.uniform(0.22, 0.36)
        cx, cy = x + dx, base - size * 0.68 + dy
        leaves = scene.color((45, 95, 40), 14)
        scene.ellipse(
            cx - radius,
            cy - radius,
            right=cx + radius,
            bottom=cy + radius,
            color=leaves,
            label=TREE,
        )


def _pole(scene: _Scene, base: float, depth: float, vanishing: float, half: float) -> None:
    x, size = (
        _roadside_position(scene, depth, vanishing=vanishing, half=half * 1.05),
        45 + 95 * depth,
    )
    width = 2.5 + 5 * depth
    metal = scene.color((190, 185, 120), 18)
    scene.box(x - width / 2, base - size, right=x + width / 2, bottom=base, color=metal, label=POLE)
    scene.box(
        x - width * 1.6,
        base - size,
        right=x + width * 1.6,
        bottom=base - size + 2 * width,
        color=metal,
        label=POLE,
    )


def _vehicle(scene: _Scene, base: float, depth: float, vanishing: float, half: float) -> None:
    x = vanishing + scene.rng.uniform(-0.6, 0.6) * depth * half
    width = 16 + 75 * depth
    height = width * scene.rng.uniform(0.5, 0.75)
    paint = scene.color(scene.rng.choice(((190, 40, 40), (40, 60, 180), (225, 225, 230))), 20)
    dark = scene.color((30, 32, 38), 8)
    left, right, top = x - width / 2, x + width / 2, base - height
    scene.box(
        left,
        top + height * 0.4,
        right=right,
        bottom=base - height * 0.12,
        color=paint,
        label=VEHICLE,
    )
    scene.box(
        left + width * 0.14,
        top,
        right=right - width * 0.14,
        bottom=base - height * 0.5,
        color=paint,
        label=VEHICLE,
    )
    scene.box(
        left + width * 0.2,
        top + height * 0.08,
        right=right - width * 0.2,
        bottom=top + height * 0.4,
        color=dark,
        label=VEHICLE,
    )
    for wheel in (left + width * 0.08, right - width * 0.28):
        scene.box(
            wheel,
            base - height * 0.2,
            right=wheel + width * 0.2,
            bottom=base,
            color=dark,
            label=VEHICLE,
        )


def _add_light_and_noise(scene: _Scene) -> np.ndarray:
    """Applies uneven lighting, an exposure and sensor noise to the image of a scene."""
    rng = scene.rng
    pixels = np.asarray(scene.image, np.float32)
    slope = rng.uniform(-0.25, 0.25, 2)
    rows = np.linspace(-1, 1, HEIGHT)[:, None] * slope[0]
    columns = np.linspace(-1, 1, WIDTH)[None] * slope[1]
    light = rng.uniform(0.7, 1.2) * (1 + rows + columns)
    noise = rng.normal(0, rng.uniform(3, 10), pixels.shape)
    return np.clip(pixels * light[..., None] + noise, 0, 255).astype(np.uint8)

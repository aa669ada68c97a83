"""Four built-in pictures, on which an imported network is checked if no images are given."""

import numpy as np
from PIL import Image

from deeplab_tf.data.readers.synthetic import draw_scene

_SCENE_SEEDS = (0, 1)


def built_in_pictures(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Returns two drawn scenes, color gradients and noise; the same at every call.

    Args:
        shape: shape of the network's input without the batch; an input that is not an image gets
            four arrays of noise.

    Returns:
        Four arrays, uint8 [1, *shape].
    """
    random = np.random.default_rng(0)
    if len(shape) != 3:
        return [random.integers(0, 256, (1, *shape)).astype(np.uint8) for _ in range(4)]
    height, width, channels = shape
    scenes = [_scene(seed, height, width=width) for seed in _SCENE_SEEDS]
    pictures = [*scenes, _gradients(height, width), random.integers(0, 256, (height, width, 3))]
    return [_with_channels(picture, channels)[None] for picture in pictures]


def _scene(seed: int, height: int, *, width: int) -> np.ndarray:
    picture = Image.fromarray(draw_scene(seed)[0])
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))


def _gradients(height: int, width: int) -> np.ndarray:
    """Returns red increasing to the right, green downwards, blue decreasing on the diagonal."""
    down, right = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.round(255 * np.stack([right, down, 1 - (down + right) / 2], axis=-1))


def _with_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    picture = picture.astype(np.uint8)
    if channels == 1:
        return picture[..., 1:2]
    return np.tile(picture, -(-channels // 3))[..., :channels]

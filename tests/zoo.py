"""Trained weights of the zoo for tests: random weights hide every real problem."""

import functools

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.data.readers.synthetic import draw_scene
from deeplab_tf.models.registry import build_network
from deeplab_tf.quantization.qat import apply, ranges
from deeplab_tf.training.config import read_config
from deeplab_tf.weights.matching import load_named, named_arrays
from deeplab_tf.weights.npz import read_weights
from tests.paths import CAMVID

LIVE_SIZE = (96, 128)
"""Conversions and steps cost seconds; the weights are the same at any size."""


def pixels(count: int, size=LIVE_SIZE) -> np.ndarray:
    """Drawn scenes, uint8 [count, height, width, 3], cut to size; never a list of a data set."""
    return np.stack([draw_scene(seed)[0][: size[0], : size[1]] for seed in range(count)])


def scenes(count: int) -> np.ndarray:
    """The same, normalized float32."""
    return Preprocessing().normalize(pixels(count))


@functools.lru_cache(maxsize=1)
def trained_float_model():
    """DeepLabV3+ MobileNetV2 1.0 trained on CamVid, at LIVE_SIZE."""
    model = build_network(read_config(CAMVID).model, LIVE_SIZE)
    report = load_named(model, read_weights(CAMVID / "float.npz"))
    assert not report.missing
    assert not report.mismatched
    return model


@functools.lru_cache(maxsize=1)
def trained_quantized_model():
    """Its quantization-aware twin, ranges from four scenes."""
    source = build_network(read_config(CAMVID).model, LIVE_SIZE)
    model = apply.quantize_aware(source, Preprocessing().input_range)
    ranges.fill_ranges(
        model, source, arrays=named_arrays(trained_float_model()), batches=[scenes(4)]
    )
    return model

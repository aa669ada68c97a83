"""Channels without weights, in real files: their biases must come through."""

import numpy as np
import pytest
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.quantization.ptq.post_training import (
    BiasMethod,
    PostTraining,
    quantize_post_training,
)
from deeplab_tf.quantization.qat.apply import quantize_aware
from deeplab_tf.quantization.qat.ranges import fill_ranges
from deeplab_tf.weights.matching import named_arrays
from export.conversion import freeze
from export.conversion.convert import Conversion, convert
from export.conversion.gate import check_file
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tests.decibels import snr_db

layers = keras.layers
INPUT_RANGE = (-1.0, 127 / 128)
SPEC = FileSpec(
    Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
)


def network(gamma: float, kernel: float) -> keras.Model:
    """Of 8 channels, the first has this gamma and the second these weights; both give 2."""
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="stem")(image)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.ReLU(6.0, name="stem_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.BatchNormalization(name="depthwise_bn")(x)
    x = layers.ReLU(6.0, name="depthwise_relu")(x)
    model = keras.Model(image, layers.Conv2D(4, 1, name="logits")(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            first, *others = layer.get_weights()
            layer.set_weights([rng.normal(size=first.shape) / 3, *others])
        if isinstance(layer, layers.BatchNormalization):
            factors, offsets, mean, variance = layer.get_weights()
            factors[0] = gamma
            offsets[:2] = 2.0
            layer.set_weights([factors, offsets, mean, variance])
    for name in ("stem", "depthwise"):
        weights = model.get_layer(name).get_weights()
        index = np.s_[..., 1] if name == "stem" else np.s_[..., 1, :]
        weights[0][index] *= kernel
        model.get_layer(name).set_weights(weights)
    return model


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(1)
    return ((rng.integers(0, 256, (4, 16, 16, 3)) - 128) / 128).astype(np.float32)


def written(model, folder):
    """The file of a quantization-aware network, and its path."""
    freeze.write_saved_model(freeze.freeze_model(model, SPEC.head), folder / "saved")
    content = convert(
        Conversion(folder / "saved", SPEC, calibration_file=None, preprocessing=Preprocessing())
    )
    path = folder / "file.tflite"
    path.write_bytes(content)
    return path


def computed(path, photos):
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    found = []
    for photo in photos:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], photo[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    return np.stack(found)


DEAD = [(0.0, 0.0), (1e-6, 1e-9), (1.0, 1.0)]


@pytest.mark.parametrize(("gamma", "kernel"), DEAD)
def test_post_training(tmp_path, photos, gamma, kernel):
    model = network(gamma, kernel)
    plan = PostTraining(bias=BiasMethod.EMPIRICAL)
    done = quantize_post_training(model, plan, batches=[photos], input_range=INPUT_RANGE)
    found = computed(written(done.model, tmp_path), photos)
    assert snr_db(model(photos), found) > 30


@pytest.mark.parametrize(("gamma", "kernel"), DEAD)
def test_quantization_aware(tmp_path, photos, gamma, kernel):
    model = network(gamma, kernel)
    aware = quantize_aware(model, INPUT_RANGE)
    fill_ranges(aware, model, arrays=named_arrays(model), batches=[photos])
    path = written(aware, tmp_path)
    assert snr_db(model(photos), computed(path, photos)) > 30
    assert not check_file(path, SPEC, preprocessing=Preprocessing())

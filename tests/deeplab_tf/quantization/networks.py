"""Networks for graph edits: trained DeepLabV3+, a chain with an unknown layer, a classifier."""

import functools

import numpy as np
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.weights.matching import load_named
from tests.zoo import trained_float_model

layers = keras.layers


def built(description, arrays) -> keras.Model:
    """The network with exactly these weights."""
    model = build_model(description)
    report = load_named(model, arrays)
    assert not (report.missing or report.mismatched or report.unused), report
    return model


@functools.lru_cache(maxsize=1)
def deeplab():
    return graph_from_keras(trained_float_model())


@functools.lru_cache(maxsize=1)
def chain():
    """Every kind of pair: conv, depthwise with a multiplier, transpose, leaky ReLU, a residual."""
    keras.utils.set_random_seed(3)
    image = keras.Input((24, 32, 3), name="image")
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu6", name="stem")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, use_bias=False, name="wide")(
        x
    )
    x = layers.BatchNormalization(name="wide_norm")(x)
    x = layers.ReLU(6.0, name="wide_relu")(x)
    x = layers.Conv2D(24, 1, name="narrow")(x)
    x = layers.BatchNormalization(scale=False, name="narrow_norm")(x)
    y = layers.Conv2D(24, 3, padding="same", name="branch")(x)
    y = layers.LeakyReLU(0.1, name="branch_relu")(y)
    y = layers.Conv2D(24, 3, padding="same", name="branch_end")(y)
    x = layers.Add(name="sum")([x, y])
    x = layers.LayerNormalization(name="odd")(x)  # unknown to all steps
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up")(x)
    x = layers.Activation("relu", name="up_relu")(x)
    x = layers.Conv2D(5, 1, name="logits")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(6)
    spread = 10.0 ** random.uniform(-1, 1, 64)
    weights = []
    for value in model.get_weights():
        new = random.normal(size=value.shape) * 0.3
        if value.ndim == 1:
            new = np.abs(new) + 0.5  # also a variance
        elif value.shape[-1] <= 64:
            new = new * spread[: value.shape[-1]]
        weights.append(new)
    model.set_weights(weights)
    return graph_from_keras(model)


@functools.lru_cache(maxsize=1)
def classifier():
    """Convolutions, global pool and a dense layer; four channels of `a` hardly reach 0."""
    keras.utils.set_random_seed(4)
    image = keras.Input((20, 20, 4), name="image")
    x = layers.Conv2D(12, 3, padding="same", name="a")(image)
    x = layers.BatchNormalization(name="a_norm")(x)
    x = layers.ReLU(name="a_relu")(x)
    x = layers.DepthwiseConv2D(3, name="b")(x)
    x = layers.BatchNormalization(name="b_norm")(x)
    x = layers.ReLU(6.0, name="b_relu")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    x = layers.Dense(6, name="scores")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(7)
    model.set_weights(
        [
            np.abs(random.normal(size=v.shape)) + 0.3
            if v.ndim == 1
            else random.normal(size=v.shape) * 10.0 ** random.uniform(-1, 1, v.shape[-1])
            for v in model.get_weights()
        ]
    )
    gamma, beta, *_ = model.get_layer("a_norm").get_weights()
    gamma[:4], beta[:4] = 0.1, 2.0
    photos = random.uniform(-1, 1, (4, 20, 20, 4)).astype(np.float32)
    _fit_batch_norm(model, "a_norm", photos, gamma, beta)
    _fit_batch_norm(model, "b_norm", photos, *model.get_layer("b_norm").get_weights()[:2])
    return graph_from_keras(model)


def _fit_batch_norm(model, name: str, photos, gamma, beta) -> None:
    """Gives a batch norm the moments of what flows into it, and a scale and offset."""
    norm = model.get_layer(name)
    found = np.asarray(keras.Model(model.input, norm.input)(photos), np.float64)
    norm.set_weights([gamma, beta, found.mean((0, 1, 2)), found.var((0, 1, 2))])


def with_true_batch_norms(photos: np.ndarray, beta: float = 0.0) -> keras.Model:
    """Three convolutions whose batch norms hold the moments of these photos.

    Args:
        photos: float32 [batch, 16, 16, 3].
        beta: offset of the second batch norm; 20 lifts all its channels above its ReLU.
    """
    keras.utils.set_random_seed(5)
    image = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(8, 3, use_bias=False, name="a")(image)
    x = layers.BatchNormalization(name="a_norm")(x)
    x = layers.ReLU(6.0, name="a_relu")(x)
    x = layers.Conv2D(8, 3, name="b")(x)
    x = layers.BatchNormalization(name="b_norm")(x)
    x = layers.ReLU(name="b_relu")(x)
    x = layers.Conv2D(4, 1, name="logits")(x)
    model = keras.Model(image, x)
    random = np.random.default_rng(8)
    model.set_weights([random.normal(size=v.shape) for v in model.get_weights()])
    for name, offset in (("a_norm", 0.5), ("b_norm", beta)):
        gamma = random.uniform(0.5, 1.5, 8)
        _fit_batch_norm(model, name, photos, gamma, np.full(8, offset))
    return model


NETWORKS = {"deeplab": deeplab, "chain": chain, "classifier": classifier}


def images(description, count: int = 2, seed: int = 11) -> np.ndarray:
    """Seeded noise in [-1, 1], float32 [count, height, width, channels]."""
    shape = (count, *description.input_shape)
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)

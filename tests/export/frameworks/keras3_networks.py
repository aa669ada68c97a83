"""Writes networks of Keras 3; run in a process of its own, since the tests use Keras 2.

python keras3_networks.py FOLDER
"""

import os
import pathlib
import sys

os.environ.pop("TF_USE_LEGACY_KERAS", None)

import keras
from keras import layers, ops


def unet(size=(48, 64), width=8, classes=5, scale=1 / 127.5, offset=-1):
    """A UNet with transpose convolutions that normalizes pixels itself."""
    image = keras.Input((*size, 3), name="image")
    x = layers.Rescaling(scale, offset)(image)
    kept = []
    for level in range(3):
        x = layers.MaxPooling2D()(x) if level else x
        x = layers.Conv2D(width * 2**level, 3, padding="same", use_bias=False)(x)
        x = layers.Activation("silu")(layers.BatchNormalization()(x))
        kept.append(x)
    for level, skip in reversed(list(enumerate(kept[:-1]))):
        x = layers.Conv2DTranspose(width * 2**level, 2, strides=2)(x)
        x = layers.Conv2D(width * 2**level, 3, padding="same", activation="relu")(
            layers.Concatenate()([x, skip])
        )
    return keras.Model(image, layers.Conv2D(classes, 1, name="logits")(x))


def two_outputs(size=(48, 64)):
    """Scores and an auxiliary output, an operation on tensors, any input size."""
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(image)
    auxiliary = layers.Conv2D(5, 1, name="auxiliary")(x)
    x = layers.UpSampling2D(interpolation="bilinear")(ops.relu(x) * 2.0)
    return keras.Model(image, [layers.Conv2D(5, 1, name="main")(x), auxiliary])


@keras.saving.register_keras_serializable("mine")
class Doubled(layers.Layer):
    """A layer that is not Keras' own."""

    def call(self, x):
        return 2 * x


def own_layer(size=(48, 64)):
    image = keras.Input((*size, 3), name="image")
    return keras.Model(image, layers.Conv2D(5, 1)(Doubled()(image)))


if __name__ == "__main__":
    folder = pathlib.Path(sys.argv[1])
    keras.utils.set_random_seed(0)
    unet().save(folder / "unet.keras")
    unet(width=4, scale=1 / 255, offset=0).save(folder / "only_a_factor.keras")
    two_outputs().save(folder / "two_outputs.keras")
    own_layer().save(folder / "own_layer.keras")
    unet().export(folder / "saved_model", verbose=False)

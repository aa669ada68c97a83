"""A network of four convolutions, for tests of what happens around a network: loops, files, runs.

Building, tracing and converting DeepLab takes most of such a test's time and tells nothing more.
"""

import pathlib
import warnings

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.readers.synthetic import LABEL_SET
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.models.config import ImportedConfig
from deeplab_tf.runs.config import TrainingConfig
from deeplab_tf.runs.folder import Phase, RunFolder
from deeplab_tf.weights.npz import save_weights

layers = keras.layers
SIZE = (32, 48)


def small_keras_model(size=SIZE, num_classes=LABEL_SET.num_classes) -> keras.Model:
    """A strided convolution, a residual block of a depthwise and a 1x1 convolution, logits."""
    keras.utils.set_random_seed(0)
    image = keras.Input((*size, 3), name="image")
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False, name="Conv1")(image)
    x = layers.BatchNormalization(name="bn_Conv1")(x)
    start = layers.ReLU(6.0, name="Conv1_relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name="block_1_depthwise")(start)
    x = layers.BatchNormalization(name="block_1_depthwise_BN")(x)
    x = layers.ReLU(6.0, name="block_1_depthwise_relu")(x)
    x = layers.Conv2D(8, 1, use_bias=False, name="block_1_project")(x)
    x = layers.BatchNormalization(name="block_1_project_BN")(x)
    x = layers.Add(name="block_1_add")([start, x])
    return keras.Model(image, layers.Conv2D(num_classes, 1, name="logits")(x))


def small_config(size=SIZE, num_classes=LABEL_SET.num_classes) -> ImportedConfig:
    """Its configuration, as of a network that was imported from a file."""
    description, _ = graph_from_keras(small_keras_model(size, num_classes))
    return ImportedConfig(num_classes=num_classes, description=description)


def write_small_run(folder: pathlib.Path, size=SIZE, label_set: LabelSet = LABEL_SET):
    """Writes a finished run of it, to start others from; returns the folder."""
    description, arrays = graph_from_keras(small_keras_model(size, label_set.num_classes))
    config = TrainingConfig.from_settings(
        model=ImportedConfig(num_classes=label_set.num_classes, description=description),
        dataset="synthetic",
        crop_height=size[0],
        crop_width=size[1],
    )
    run = RunFolder(folder)
    run.prepare(config, label_set)
    save_weights(arrays, run.weights(Phase.FLOAT))
    return folder


def small_int8_file() -> bytes:
    """It as an integer `.tflite` of 10 KB, uint8 in, int8 logits out."""
    model = small_keras_model()
    random = np.random.default_rng(0)
    images = [random.uniform(-1, 1, (1, *SIZE, 3)).astype(np.float32) for _ in range(2)]
    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, *SIZE, 3), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([image] for image in images)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()

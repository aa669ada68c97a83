"""Fixtures: small files from the converter, compared with their imported networks."""

import dataclasses
import warnings

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.weights.matching import load_named
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras.importer import import_graph

_CONTENTS: dict[tuple, bytes] = {}
"""Converted files by (function or model, shape, variant): many tests take the same one."""


def _build_loaded(network, simulated=False) -> keras.Model:
    """Returns the Keras model of an imported network with all weights loaded."""
    description = network.description
    if simulated:
        description = simulate_quantization(description, network.ranges)
    model = build_model(description)
    if network.arrays:
        report = load_named(model, network.arrays)
        assert not (report.missing or report.mismatched or report.unused), report
    return model


@dataclasses.dataclass
class Conversion:
    """A converted file, its imported network, and the outputs of both on random images."""

    path: object
    graph: object
    network: object
    images: list

    @property
    def kinds(self):
        return [operator.kind for operator in self.graph.operators]

    @property
    def layers(self):
        return [type(layer).__name__ for layer in build_model(self.network.description).layers]

    def file_outputs(self):
        run = FileRunner(self.path)
        return [run(image) for image in self.images]

    def outputs(self, simulated=False):
        model = _build_loaded(self.network, simulated)
        return [np.asarray(model(image, training=False)) for image in self.images]


@pytest.fixture
def build_loaded():
    """Returns `_build_loaded`."""
    return _build_loaded


@pytest.fixture
def convert(tmp_path):
    """Converts a function of one image, or a Keras model, and imports the file."""

    def run(source, shape=(9, 11, 4), variant="float32", trim_head=""):
        random = np.random.default_rng(0)
        images = [random.normal(size=(1, *shape)).astype(np.float32) for _ in range(3)]
        path = tmp_path / "model.tflite"
        made = (source, tuple(shape), variant)
        if made not in _CONTENTS:
            _CONTENTS[made] = _convert(source, shape, variant, images)
        path.write_bytes(_CONTENTS[made])
        graph = read_graph(path)
        return Conversion(path, graph, network=import_graph(graph, trim_head), images=images)

    return run


def _convert(source, shape, variant, images) -> bytes:
    if isinstance(source, keras.Model):
        converter = tf.lite.TFLiteConverter.from_keras_model(source)
    else:
        function = tf.function(source, input_signature=[tf.TensorSpec((1, *shape), tf.float32)])
        converter = tf.lite.TFLiteConverter.from_concrete_functions(
            [function.get_concrete_function()], None
        )
    if variant != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if variant == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if variant in ("int8", "int8_per_tensor"):
        converter.representative_dataset = lambda: ([image] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
    if variant.endswith("_per_tensor"):
        converter._experimental_disable_per_channel = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()

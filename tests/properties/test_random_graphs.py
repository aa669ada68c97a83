"""Properties of random small networks: a file comes back as it went, edits keep the function."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.simulate import simulate_quantization
from deeplab_tf.quantization.ptq.bias_absorption import absorb_high_biases
from deeplab_tf.quantization.ptq.equalization import equalize
from deeplab_tf.weights.matching import load_named
from tests.deeplab_tf.quantization.networks import built
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.to_keras.importer import import_graph

layers = keras.layers
SIZE = (12, 16, 3)

STEPS = {
    "conv 1x1": lambda x: layers.Conv2D(6, 1)(x),
    "conv 3x3": lambda x: layers.Conv2D(5, 3, padding="same")(x),
    "conv valid": lambda x: layers.Conv2D(4, 3, padding="valid")(x),
    "conv stride 2": lambda x: layers.Conv2D(7, 3, strides=2, padding="same")(x),
    "conv dilated": lambda x: layers.Conv2D(4, 3, dilation_rate=2, padding="same")(x),
    "conv without bias": lambda x: layers.Conv2D(6, 1, use_bias=False)(x),
    "depthwise": lambda x: layers.DepthwiseConv2D(3, padding="same")(x),
    "depthwise multiplier": lambda x: layers.DepthwiseConv2D(3, depth_multiplier=2)(x),
    "transposed": lambda x: layers.Conv2DTranspose(4, 2, strides=2, padding="same")(x),
    "batch norm": lambda x: layers.BatchNormalization()(x),
    "relu": lambda x: layers.ReLU()(x),
    "relu6": lambda x: layers.ReLU(6.0)(x),
    "leaky": lambda x: layers.LeakyReLU(0.2)(x),
    "average pool": lambda x: layers.AveragePooling2D(2, padding="same")(x),
    "max pool": lambda x: layers.MaxPooling2D(2, padding="same")(x),
    "pad": lambda x: layers.ZeroPadding2D(((1, 0), (0, 2)))(x),
    "resize": lambda x: layers.Resizing(9, 11)(x),
    "residual": lambda x: layers.Add()([x, layers.Conv2D(x.shape[-1], 3, padding="same")(x)]),
    "branches": lambda x: layers.Concatenate()([x, layers.Conv2D(3, 1, activation="relu")(x)]),
}
CHAINS = st.lists(st.sampled_from(sorted(STEPS)), min_size=1, max_size=6)
SEEDS = st.integers(0, 2**16)


def settings_of(examples):
    """The same examples in every run, so that a failure is a failure for everybody."""
    return settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def random_network(chain, seed) -> keras.Model:
    """The steps in a row and 1x1 logits; channels differ by factors of ten, variances are true."""
    keras.backend.clear_session()
    image = x = keras.Input(SIZE, name="image")
    for step in chain:
        x = STEPS[step](x)
    model = keras.Model(image, layers.Conv2D(4, 1, name="logits")(x))
    random = np.random.default_rng(seed)
    weights = []
    for variable in model.weights:
        shape = tuple(variable.shape)
        if len(shape) > 1:
            fan_in = max(1, int(np.prod(shape[:-1])))
            value = random.normal(size=shape) * 10 ** random.uniform(-1, 0.5, shape[-1])
            weights.append(value / np.sqrt(fan_in))
        else:
            weights.append(np.abs(random.normal(size=shape)) + 0.3)
    model.set_weights(weights)
    return model


def images(seed, count=2) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (count, *SIZE)).astype(np.float32)


def assert_close(found, expected, share=1e-4):
    """Equal to a share of the largest value."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.abs(found - expected).max() <= share * np.abs(expected).max() + 1e-6


@settings_of(40)
@given(CHAINS, SEEDS)
def test_folding_and_equalization_keep_the_function(chain, seed):
    model = random_network(chain, seed)
    photos = images(seed)
    expected = model(photos)
    folded = fold_batch_norms(*graph_from_keras(model))
    assert_close(built(folded.description, folded.arrays)(photos), expected)
    even = equalize(folded.description, folded.arrays)
    assert_close(built(even.description, even.arrays)(photos), expected)


@settings_of(25)
@given(CHAINS, SEEDS)
def test_absorption_keeps_the_function_on_its_own_images(chain, seed):
    folded = fold_batch_norms(*graph_from_keras(random_network(chain, seed)))
    even = equalize(folded.description, folded.arrays)
    photos = images(seed, 4)
    done = absorb_high_biases(even.description, even.arrays, batches=[photos])
    assert_close(
        built(done.description, done.arrays)(photos),
        built(even.description, even.arrays)(photos),
        share=3e-4,
    )


def converted(model, path, photos=None):
    """Writes the model as a float file, or with photos as an integer one; returns its import."""
    function = tf.function(model).get_concrete_function(tf.TensorSpec((1, *SIZE), tf.float32))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], model)
    if photos is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([photo[None]] for photo in photos)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    path.write_bytes(converter.convert())
    network = import_graph(read_graph(path), "")
    description = network.description
    if photos is not None:
        description = simulate_quantization(description, network.ranges)
    rebuilt = build_model(description)
    load_named(rebuilt, network.arrays)
    return rebuilt, network


@pytest.mark.filterwarnings("ignore")  # the converter's own
@settings_of(12)
@given(CHAINS, SEEDS)
def test_a_float_file_comes_back_as_it_went(tmp_path_factory, chain, seed):
    path = tmp_path_factory.mktemp("graph") / "a.tflite"
    model = random_network(chain, seed)
    rebuilt, _ = converted(model, path)
    run = FileRunner(path)
    for photo in images(seed):
        expected = run(photo[None])
        assert_close(model(photo[None]), expected)
        assert_close(rebuilt(photo[None]), expected)


@pytest.mark.filterwarnings("ignore")  # the converter's own
@settings_of(8)
@given(CHAINS, SEEDS)
def test_an_integer_file_comes_back_to_a_step_of_its_output(tmp_path_factory, chain, seed):
    """99.9 % of the values: the runtime's resize weighs with 11 bits, so one in a hundred of its
    values is another integer, and a layer behind it may make two steps of one."""
    path = tmp_path_factory.mktemp("graph") / "a.tflite"
    photos = images(seed, 4)
    rebuilt, _ = converted(random_network(chain, seed), path, photos)
    graph = read_graph(path)
    output = graph.tensors[graph.operators[-1].inputs[0]]  # what the last DEQUANTIZE reads
    (step,) = output.quantization.scale
    run = FileRunner(path)
    found = np.concatenate([rebuilt(photo[None]) for photo in photos])
    expected = np.concatenate([run(photo[None]) for photo in photos])
    apart = np.abs(found - expected) / step
    assert (apart > 1.01).mean() <= 0.001
    assert apart.max() < 3.01

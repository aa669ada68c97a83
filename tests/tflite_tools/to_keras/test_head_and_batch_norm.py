"""Tests of cutting a network, adding a classifier and inserting batch norms."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.batch_norm import (
    adopt_statistics,
    insert_batch_norms,
    normalize_kernels,
)
from deeplab_tf.graph.build import build_model
from deeplab_tf.graph.edit import append_classifier, cut_after, last_convolution
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.weights.matching import load_named
from tflite_tools.to_keras.convert import unfold_batch_norm

layers = keras.layers


@functools.cache  # so that its file is converted once
def _network() -> keras.Model:
    keras.utils.set_random_seed(5)
    image = keras.Input((16, 20, 3), batch_size=1)
    x = layers.Conv2D(24, 3, strides=2, padding="same", activation="relu", name="stem")(image)
    x = layers.DepthwiseConv2D(3, padding="same", depth_multiplier=2, name="wide")(x)
    x = layers.ReLU(6.0, name="wide_relu")(x)
    x = layers.Conv2DTranspose(8, 3, strides=2, padding="same", name="up")(x)
    x = layers.Conv2D(5, 1, name="logits")(x)
    x = tf.argmax(x, -1)
    model = keras.Model(image, x)
    random = np.random.default_rng(6)
    model.set_weights([random.normal(size=w.shape) * 0.4 for w in model.get_weights()])
    return model


@pytest.fixture
def network(convert):
    conversion = convert(_network(), (16, 20, 3))
    return conversion


def _load(description, arrays):
    model = build_model(description)
    report = load_named(model, arrays)
    assert not (report.missing or report.mismatched or report.unused), report
    return model


def _logits(imported):
    return cut_after(
        imported.description, imported.arrays, name=last_convolution(imported.description).name
    )


def test_trim_head_cuts_after_a_tensor(network):
    name = last_convolution(network.network.description).name
    assert network.network.description.output_name != name
    description, arrays = cut_after(network.network.description, network.network.arrays, name=name)
    assert build_model(description).output_shape == (None, 16, 20, 5)
    assert {key for key in network.network.arrays if key.startswith(name)} <= set(arrays)


def test_unknown_tensor_is_named(convert):
    with pytest.raises(ValueError, match="no operator computes a tensor 'nonsense'; the last are"):
        convert(_network(), (16, 20, 3), trim_head="nonsense")


def test_new_classifier(network):
    features = _logits(network.network)[0].node(_logits(network.network)[0].output_name).inputs[0]
    cut = cut_after(network.network.description, network.network.arrays, name=features)
    description, arrays = append_classifier(*cut, num_classes=3, seed=1)
    model = _load(description, arrays)
    assert model.output_shape == (None, 16, 20, 3)
    assert (
        arrays["logits_new/kernel" if "logits_new/kernel" in arrays else "logits/kernel"].std()
        < 0.02
    )
    again = append_classifier(*cut, num_classes=3, seed=1)[1]
    assert all(np.array_equal(arrays[key], again[key]) for key in arrays)
    with pytest.raises(ValueError, match="num_classes must be at least 1"):
        append_classifier(*cut, num_classes=0)


def test_batch_norms_change_only_their_statistics(network):
    """The bound is 1e-4; the measured difference is float32 rounding."""
    description, arrays = _logits(network.network)
    folded = _load(description, arrays)
    random = np.random.default_rng(8)
    batches = [random.normal(size=(2, 16, 20, 3)).astype(np.float32) for _ in range(3)]
    description, arrays = insert_batch_norms(description, arrays)
    unfolded = _load(description, arrays)
    adopt_statistics(unfolded, batches)
    norms = [x for x in unfolded.layers if isinstance(x, layers.BatchNormalization)]
    convolutions = [layer for layer in unfolded.layers if "conv" in type(layer).__name__.lower()]
    assert (len(norms), len(convolutions)) == (3, 4)  # the classifier has none
    assert [layer.use_bias for layer in convolutions] == [False, False, False, True]
    for batch in batches:
        difference = np.abs(np.asarray(unfolded(batch)) - np.asarray(folded(batch))).max()
        assert difference < 1e-4
    # In training mode each batch norm now normalizes to its own gamma and beta.
    taps = keras.Model(unfolded.input, [norms[0].input, norms[0].output])
    before, after = (np.asarray(value) for value in taps(np.concatenate(batches)))
    gamma, beta, mean, variance = norms[0].get_weights()
    np.testing.assert_allclose(before.mean((0, 1, 2)), mean, atol=1e-4)
    np.testing.assert_allclose(before.var((0, 1, 2)), variance, rtol=1e-3)
    np.testing.assert_allclose(after.mean((0, 1, 2)), beta, atol=1e-4)
    np.testing.assert_allclose(after.std((0, 1, 2)), np.abs(gamma), rtol=1e-2)


def test_kernels_are_scaled_to_unit_variance_with_the_same_function(network):
    description, arrays = insert_batch_norms(*_logits(network.network))
    model = _load(description, arrays)
    random = np.random.default_rng(8)
    batches = [random.normal(size=(2, 16, 20, 3)).astype(np.float32) for _ in range(3)]
    stem = next(layer for layer in model.layers if isinstance(layer, layers.Conv2D))
    kernel = stem.get_weights()[0]
    kernel[..., 3] = 0  # a dead channel keeps its zeros
    stem.set_weights([kernel])
    adopt_statistics(model, batches)
    expected = [np.asarray(model(batch)) for batch in batches]
    normalize_kernels(model)
    for batch, logits in zip(batches, expected, strict=True):
        assert np.abs(np.asarray(model(batch)) - logits).max() < 1e-4
    for norm in (x for x in model.layers if isinstance(x, layers.BatchNormalization)):
        observed = np.asarray(keras.Model(model.input, norm.input)(np.concatenate(batches)))
        alive = norm.get_weights()[3] > 0
        np.testing.assert_allclose(observed.var((0, 1, 2))[alive], 1.0, rtol=1e-3)
    assert not np.any(stem.get_weights()[0][..., 3])
    assert np.isfinite(model.get_weights()[0]).all()


def test_convolution_after_a_global_pool_gets_no_batch_norm():
    """Its statistics would come from 4 values in a batch of 4."""
    nodes = (
        Node(
            "conv",
            "conv2d",
            inputs=("image",),
            attributes={"filters": 6, "kernel_size": 3, "padding": "same"},
        ),
        Node("pool", "global_average_pool2d", inputs=("conv",), attributes={"keepdims": True}),
        Node("pooled", "conv2d", inputs=("pool",), attributes={"filters": 6, "kernel_size": 1}),
        Node("sum", "add", inputs=("conv", "pooled")),
        Node("logits", "conv2d", inputs=("sum",), attributes={"filters": 4, "kernel_size": 1}),
    )
    description = NetworkGraph("image", (8, 8, 3), nodes=nodes, output_name="logits")
    arrays = {
        f"{layer.name}/{variable.name.split('/')[-1][:-2]}": variable.numpy()
        for layer in build_model(description).layers
        for variable in layer.weights
    }
    unfolded, _ = insert_batch_norms(description, arrays)
    norms = [node.name for node in unfolded.nodes if node.kind == "batch_norm"]
    assert norms == ["conv"]


def test_unfolded_names_keep_the_ranges(convert):
    """The batch norm takes the convolution's name, so a range refers to the same tensor."""
    conversion = convert(_network(), (16, 20, 3), "int8")
    description, arrays = _logits(conversion.network)
    unfolded, _ = unfold_batch_norm(description, arrays, batches=conversion.images)
    names = {node.name for node in unfolded.nodes} | {unfolded.input_name}
    kept = {node.name for node in description.nodes} | {description.input_name}
    assert kept <= names
    assert set(conversion.network.ranges) & kept <= names


def test_real_model_keeps_its_function(shared_dir):
    from tflite_tools.to_keras.importer import import_file  # noqa: PLC0415

    imported = import_file(shared_dir / "models" / "deeplabv3_257_mv_gpu.tflite")
    random = np.random.default_rng(9)
    batches = [random.uniform(-1, 1, (1, 257, 257, 3)).astype(np.float32) for _ in range(2)]
    folded = _load(imported.description, imported.arrays)
    unfolded = _load(*unfold_batch_norm(imported.description, imported.arrays, batches=batches))
    difference = np.abs(np.asarray(unfolded(batches[0])) - np.asarray(folded(batches[0]))).max()
    assert difference < 1e-4


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "lambda"}, "unknown kind 'lambda'"),
        ({"kind": "activation", "attributes": {"activation": "eval"}}, "unknown activation 'eval'"),
        ({"inputs": ["later"]}, "reads 'later', which no earlier node computes"),
        ({"name": "image"}, "two nodes are named 'image'"),
        ({"color": "red"}, "not the description of a network"),
    ],
)
def test_bad_descriptions(values, message):
    node = {"name": "a", "kind": "relu", "inputs": ["image"], "attributes": {}} | values
    with pytest.raises(ValueError, match=message):
        NetworkGraph.from_json(
            {
                "input_name": "image",
                "input_shape": [8, 8, 3],
                "nodes": [node],
                "output_name": node["name"],
            }
        )


def test_node_that_does_not_fit_is_named():
    node = Node(
        "wide",
        "conv2d",
        inputs=("image",),
        attributes={"filters": 3, "kernel_size": 9, "padding": "valid"},
    )
    with pytest.raises(ValueError, match=r"node 'wide' \(conv2d\) cannot be built"):
        build_model(NetworkGraph("image", (4, 4, 3), nodes=(node,), output_name="wide"))

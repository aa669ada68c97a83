"""Folding and cross-layer equalization: what they find, and that the function stays."""

import dataclasses

import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.kernels import kernel_key, largest_of_inputs, largest_of_outputs
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.ptq.equalization import (
    Relu6,
    equalize,
    find_pairs,
    measure_replacement,
)
from tests.deeplab_tf.quantization.networks import NETWORKS, built, chain, deeplab, images
from tests.zoo import scenes, trained_float_model

layers = keras.layers


def inputs(name, description):
    return scenes(2) if name == "deeplab" else images(description)


def difference(name, description, first, second):
    """Largest difference of outputs over the largest output."""
    image = inputs(name, description)
    expected = np.asarray(built(*first)(image))
    return np.abs(np.asarray(built(*second)(image)) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", NETWORKS)
def test_description_gives_the_same_network(name):
    description, arrays = NETWORKS[name]()
    again = NetworkGraph.from_json(description.to_json())
    assert difference(name, description, (description, arrays), (again, arrays)) == 0


def test_description_of_the_trained_model_computes_what_it_computes():
    np.testing.assert_array_equal(built(*deeplab())(scenes(2)), trained_float_model()(scenes(2)))


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_keeps_the_function(name):
    description, arrays = NETWORKS[name]()
    folded = fold_batch_norms(description, arrays)
    assert not [node for node in folded.description.nodes if node.kind == "batch_norm"]
    assert folded.left == ()
    # float32 rounding; 2.4e-6 measured on 66 trained layers.
    second = (folded.description, folded.arrays)
    assert difference(name, description, (description, arrays), second) < 1e-5


def test_folding_by_hand():
    # kernel 2, bias 1; gamma 3, beta 5, mean 7, variance 4 - eps: scale 3/2
    image = keras.Input((1, 1, 1))
    x = layers.Conv2D(1, 1, name="c")(image)
    model = keras.Model(image, layers.BatchNormalization(epsilon=0.5, name="n")(x))
    model.set_weights([np.array([[[[2.0]]]])] + [np.array([v]) for v in (1.0, 3, 5, 7, 3.5)])
    folded = fold_batch_norms(*graph_from_keras(model))
    assert folded.arrays["c/kernel"].item() == pytest.approx(3.0)
    assert folded.arrays["c/bias"].item() == pytest.approx((1 - 7) * 1.5 + 5)
    mean, deviation = folded.statistics["c"]
    assert (mean.tolist(), deviation.tolist()) == ([5.0], [3.0])


def test_batch_norm_that_cannot_be_folded_is_named():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="c")(image)
    both = layers.Add(name="sum")([x, layers.BatchNormalization(name="n")(x)])
    folded = fold_batch_norms(*graph_from_keras(keras.Model(image, both)))
    assert folded.left == ("n",)
    assert [node.name for node in folded.description.nodes] == ["c", "n", "sum"]


def slope_below_a_limit():
    """ReLU6 that lets a tenth of what is negative pass, between two convolutions."""
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 1, name="a")(image)
    x = layers.ReLU(6.0, negative_slope=0.1, name="leaky6")(x)
    x = layers.Conv2D(8, 1, activation="relu", name="b")(x)
    model = keras.Model(image, layers.Conv2D(4, 1, name="c")(x))
    random = np.random.default_rng(9)
    model.set_weights([random.normal(size=value.shape) * 3 for value in model.get_weights()])
    return graph_from_keras(model)


@pytest.mark.parametrize("relu6", [Relu6.EXACT, Relu6.RELU])
def test_limit_with_a_slope_ends_a_chain(relu6):
    description, arrays = slope_below_a_limit()
    done = equalize(description, arrays, relu6=relu6)
    assert [pair.first for pair in done.pairs] == ["b_linear"]
    assert "a: leaky6 has a limit and a slope" in done.skipped
    assert (
        difference("", description, (description, arrays), (done.description, done.arrays)) < 1e-5
    )


@pytest.mark.parametrize("relu6", [Relu6.EXACT, Relu6.SKIP])
@pytest.mark.parametrize("name", NETWORKS)
def test_equalization_keeps_the_function(name, relu6):
    folded = fold_batch_norms(*NETWORKS[name]())
    done = equalize(folded.description, folded.arrays, relu6=relu6)
    assert done.pairs
    first, second = (folded.description, folded.arrays), (done.description, done.arrays)
    assert difference(name, folded.description, first, second) < 1e-4


def test_equalized_channels_share_their_ranges():
    folded = fold_batch_norms(*deeplab())
    done = equalize(folded.description, folded.arrays, relu6=Relu6.EXACT)
    nodes = {node.name: node for node in done.description.nodes}
    assert len(done.pairs) == 42
    for pair in done.pairs:
        first, second = nodes[pair.first], nodes[pair.second]
        given = largest_of_outputs(first, done.arrays[kernel_key(first)])
        taken = largest_of_inputs(second, done.arrays[kernel_key(second)])
        alive = (given > 1e-7) & (taken > 1e-7)
        assert alive.any()
        np.testing.assert_allclose(given[alive], taken[alive], rtol=1e-2)


def test_pairs_end_at_residual_adds_and_unknown_layers():
    folded = fold_batch_norms(*chain())
    pairs, left = find_pairs(folded.description, Relu6.EXACT)
    found = [(pair.first, pair.second, pair.between) for pair in pairs]
    assert found == [
        ("stem_linear", "wide", ("stem",)),
        ("wide", "narrow", ("wide_relu",)),
        ("branch", "branch_end", ("branch_relu",)),
        ("up", "logits", ("up_relu",)),
    ]
    assert left == [
        "narrow: 2 layers read it",
        "branch_end: sum is add",
        "logits: it is the output",
    ]


def test_replacing_relu6_is_reported_and_changes_the_function():
    folded = fold_batch_norms(*deeplab())
    done = equalize(folded.description, folded.arrays, relu6=Relu6.RELU)
    assert len(done.replaced) == 41
    first, second = (folded.description, folded.arrays), (done.description, done.arrays)
    assert difference("deeplab", folded.description, first, second) > 1e-2


@pytest.mark.parametrize(("limit", "replaced"), [(6.0, 1), (1.0, 0), (4.0, 0)])
def test_only_a_relu6_is_replaced_by_a_relu(limit, replaced):
    """Another limit fuses no better without it, and is cut into far more often."""
    layers = keras.layers
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(4, 3, name="first")(image)
    x = layers.ReLU(limit, name="active")(x)
    network = graph_from_keras(keras.Model(image, layers.Conv2D(2, 1, name="second")(x)))
    done = equalize(*network, relu6=Relu6.RELU)
    assert (len(done.replaced), len(done.limits)) == (replaced, 1 - replaced)
    if not replaced:
        photos = np.random.default_rng(0).normal(0, 5, (2, 8, 8, 3)).astype(np.float32)
        expected = Executor(*network).run(photos)
        found = Executor(done.description, done.arrays).run(photos)
        # The same function in float32, its channels scaled apart.
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def without_limits(description, names):
    """The same network with ReLU in place of these ReLU6."""
    nodes = tuple(
        dataclasses.replace(node, attributes=node.attributes | {"max_value": None})
        if node.name in names
        else node
        for node in description.nodes
    )
    return dataclasses.replace(description, nodes=nodes)


def test_cost_of_replacing_relu6_is_that_of_the_network_without_limits():
    folded = fold_batch_norms(*deeplab())
    done = equalize(folded.description, folded.arrays, relu6=Relu6.RELU)
    photos = scenes(3)
    first, second = (folded.description, folded.arrays), (done.description, done.arrays)
    cost = measure_replacement(first, second, batches=[photos[:2], photos[2:]])
    expected = np.asarray(built(*first)(photos), np.float64)
    found = np.asarray(
        built(without_limits(folded.description, done.replaced), folded.arrays)(photos)
    )
    noise = np.square(expected - found).sum()
    snr_db = 10 * np.log10(np.square(expected).sum() / noise)
    assert cost.snr_db == pytest.approx(snr_db, abs=0.05)
    agreement = (expected.argmax(-1) == found.argmax(-1)).mean()
    assert cost.agreement == pytest.approx(agreement, abs=1e-3)
    assert snr_db < 40
    assert agreement < 1


def test_cost_of_one_score_has_no_arg_max():
    nodes = (
        Node(
            "a",
            "conv2d",
            inputs=("image",),
            attributes={"filters": 1, "kernel_size": 1, "use_bias": False},
        ),
        Node("r", "relu", inputs=("a",), attributes={"max_value": 6.0}),
    )
    description = NetworkGraph("image", (1, 2, 1), nodes=nodes, output_name="r")
    arrays = {"a/kernel": np.full((1, 1, 1, 1), 8, np.float32)}
    image = np.array([0.5, 1], np.float32).reshape(1, 1, 2, 1)
    # 4 and 6 against 4 and 8: signal 52, noise 4.
    cost = measure_replacement(
        (description, arrays), (without_limits(description, ["r"]), arrays), batches=[image]
    )
    assert cost.snr_db == pytest.approx(10 * np.log10(13))
    assert cost.agreement is None
    same = measure_replacement((description, arrays), (description, arrays), batches=[image])
    assert same.snr_db == np.inf


def test_dead_channels_stay_as_they_are():
    folded = fold_batch_norms(*deeplab())
    arrays = {key: value.copy() for key, value in folded.arrays.items()}
    arrays["block_1_expand/kernel"][..., 7] = 0
    arrays["block_1_project/kernel"][:, :, 11] = 0
    done = equalize(folded.description, arrays)
    assert all(np.isfinite(value).all() for value in done.arrays.values())
    assert done.scales["block_1_expand"][7] == 1
    assert done.scales["block_1_depthwise"][11] == 1


def test_nan_is_refused():
    description, arrays = chain()
    broken = arrays | {"narrow/kernel": np.full_like(arrays["narrow/kernel"], np.nan)}
    with pytest.raises(ValueError, match="narrow/kernel contains NaN or infinity"):
        equalize(description, broken)


def test_models_that_are_not_flat_are_refused():
    image = keras.Input((8, 8, 3))
    inner = keras.Model(image, layers.Conv2D(4, 1)(image), name="inner")
    with pytest.raises(ValueError, match="'inner' is a model of its own"):
        graph_from_keras(keras.Model(image, inner(image)))
    twice = layers.Conv2D(3, 1, name="twice")
    with pytest.raises(ValueError, match="'twice' is used 2 times"):
        graph_from_keras(keras.Model(image, twice(twice(image))))

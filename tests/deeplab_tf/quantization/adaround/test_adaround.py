"""AdaRound: kernels on the grid, smaller errors on held-out images, invalid inputs."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.kernels import WITH_KERNEL, along_outputs, kernel_key, largest_of_outputs
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.adaround.adaround import learn_rounding
from deeplab_tf.quantization.adaround.descent import Schedule, _regularization
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.adaround.sample import windows_at
from deeplab_tf.quantization.ptq.equalization import equalize
from deeplab_tf.quantization.qat.quantizers import (
    ConvolutionWeightQuantizer,
    DepthwiseWeightQuantizer,
)
from deeplab_tf.quantization.qat.ranges import observe_ranges
from deeplab_tf.quantization.qat.scheme import plan_layers
from tests.deeplab_tf.quantization.networks import built, chain, classifier, deeplab, images
from tests.zoo import scenes

layers = keras.layers

QUICK = AdaRoundOptions(
    iterations=60, batch_pixels=256, sample_pixels=2048, learning_rate=0.1, regularization=0.1
)


@pytest.fixture(scope="module")
def folded_deeplab():
    folded = fold_batch_norms(*deeplab())
    return folded.description, folded.arrays


@pytest.fixture(scope="module")
def learned_deeplab(folded_deeplab):
    """Per tensor, where nearest rounding ruins a network with depthwise convolutions."""
    description, arrays = folded_deeplab
    model = built(description, arrays)
    photos = scenes(8)
    names = [name for name, plan in plan_layers(model).items() if plan.output]
    ranges = observe_ranges(model, names, batches=[photos]) | {
        description.input_name: (-1.0, 127 / 128)
    }
    return learn_rounding(
        description,
        arrays,
        batches=[photos[:5], photos[5:]],
        ranges=ranges,
        options=QUICK,
        per_channel=False,
    )


def steps(description, arrays, original, per_channel=True):
    """{layer: (kernel / scale, the same of the original kernel)}."""
    found = {}
    for node in description.nodes:
        if node.kind in WITH_KERNEL:
            kernel = original[kernel_key(node)].astype(np.float64)
            largest = largest_of_outputs(node, kernel)
            largest = largest if per_channel else np.full_like(largest, largest.max())
            scale = along_outputs(node, kernel, values=np.where(largest > 0, largest, 1) / 127)
            found[node.name] = (arrays[kernel_key(node)] / scale, kernel / scale)
    return found


def check_grid(description, arrays, original, per_channel=True):
    for name, (given, wanted) in steps(description, arrays, original, per_channel).items():
        # 127 steps in float32 are off by up to 8e-6.
        np.testing.assert_allclose(given, np.rint(given), atol=1e-5, rtol=0, err_msg=name)
        assert np.abs(given).max() <= 127 + 1e-5, name
        assert np.abs(given - wanted).max() < 1, name
        np.testing.assert_array_equal(np.rint(given[np.abs(wanted) > 126.9999]) % 254, 127)


def nearest(description, arrays, per_channel=True):
    rounded = dict(arrays)
    for node in description.nodes:
        if node.kind in WITH_KERNEL:
            _, exact = steps(description, arrays, arrays, per_channel)[node.name]
            largest = largest_of_outputs(node, arrays[kernel_key(node)])
            largest = largest if per_channel else np.full_like(largest, largest.max())
            scale = along_outputs(node, exact, values=largest / 127)
            rounded[kernel_key(node)] = (np.rint(exact) * scale).astype(np.float32)
    return rounded


@pytest.mark.slow
def test_deeplab_lies_on_the_grid(folded_deeplab, learned_deeplab):
    description, arrays = folded_deeplab
    check_grid(description, learned_deeplab.arrays, arrays, per_channel=False)
    kernels = [node.name for node in description.nodes if node.kind in WITH_KERNEL]
    assert [layer.name for layer in learned_deeplab.layers] == kernels
    assert len(kernels) == 66
    assert learned_deeplab.skipped == ()


@pytest.mark.slow
def test_deeplab_is_closer_to_float_on_other_images(folded_deeplab, learned_deeplab):
    description, arrays = folded_deeplab
    others = scenes(12)[8:]
    expected = built(description, arrays)(others).numpy()

    def error(rounded):
        return np.square(built(description, rounded)(others).numpy() - expected).mean()

    ratio = error(learned_deeplab.arrays) / error(nearest(description, arrays, per_channel=False))
    # 0.046 measured; the error of nearest is 2.6 times the mean square of the output itself.
    assert ratio < 0.2


@pytest.mark.slow
def test_no_layer_gets_worse(learned_deeplab):
    assert all(layer.error_learned <= layer.error_nearest for layer in learned_deeplab.layers)
    assert all(0 <= layer.changed < layer.weights for layer in learned_deeplab.layers)
    assert sum(layer.changed for layer in learned_deeplab.layers) > 0


@pytest.mark.parametrize("name", ["chain", "classifier"])
def test_every_kind_of_layer_lies_on_the_grid(name):
    folded = fold_batch_norms(*{"chain": chain, "classifier": classifier}[name]())
    photos = images(folded.description, 4)
    done = learn_rounding(
        folded.description, folded.arrays, batches=[photos], ranges={}, options=QUICK
    )
    check_grid(folded.description, done.arrays, folded.arrays)
    learned = [layer.name for layer in done.layers]
    if name == "chain":
        assert learned == ["stem_linear", "wide", "narrow", "branch", "branch_end", "logits"]
        assert done.skipped == ("up: it is a transposed convolution",)
    else:
        assert learned == ["a", "b", "scores"]
        assert done.skipped == ()
    for key, value in folded.arrays.items():
        if not key.endswith("kernel"):
            np.testing.assert_array_equal(done.arrays[key], value)


def test_the_scheme_changes_nothing_more():
    folded = fold_batch_norms(*chain())
    done = learn_rounding(
        folded.description,
        folded.arrays,
        batches=[images(folded.description)],
        ranges={},
        options=QUICK,
    )
    for name, quantizer in (
        ("branch", ConvolutionWeightQuantizer()),
        ("wide", DepthwiseWeightQuantizer()),
    ):
        node = folded.description.node(name)
        kernel = done.arrays[kernel_key(node)]
        channels = len(largest_of_outputs(node, kernel))
        found = {key: tf.Variable(tf.zeros(channels)) for key in ("min_var", "max_var")}
        again = quantizer(tf.constant(kernel), training=True, weights=found).numpy()
        scale = largest_of_outputs(node, folded.arrays[kernel_key(node)]) / 127
        np.testing.assert_array_equal(found["max_var"] / np.float32(127), scale)
        # Of a step; a quantizer with another scale moves weights by up to half of one.
        assert np.abs((again - kernel) / along_outputs(node, kernel, values=scale)).max() < 1e-4


def test_rounding_a_rounded_network_changes_nothing():
    description, arrays = classifier()
    photos = [images(description)]
    first = learn_rounding(description, arrays, batches=photos, ranges={}, options=QUICK)
    second = learn_rounding(description, first.arrays, batches=photos, ranges={}, options=QUICK)
    assert [layer.changed for layer in second.layers] == [0, 0, 0]
    for key, value in first.arrays.items():
        np.testing.assert_allclose(second.arrays[key], value, rtol=1e-6, err_msg=key)


def pointwise(kernel, bias=0.0, follower=None):
    """One 1x1 convolution without a Keras model: (description, arrays)."""
    kernel = np.asarray(kernel, np.float32)
    attributes = {"filters": kernel.shape[1], "kernel_size": 1}
    nodes = [Node("c", "conv2d", inputs=("image",), attributes=attributes)]
    nodes += [follower] if follower else []
    description = NetworkGraph(
        "image", (8, 8, len(kernel)), nodes=tuple(nodes), output_name=nodes[-1].name
    )
    biases = np.full(kernel.shape[1], bias, np.float32)
    return description, {"c/kernel": kernel[None, None], "c/bias": biases}


BY_HAND = np.array([[127.0], [0.45], [0.4], [0.35], [0.48], [0.32]])
"""Scale 1. Behind equal inputs only the sum counts, 127 + 2: nearest gives 127, an error of 2."""


def equal_inputs(count=2):
    random = np.random.default_rng(0)
    return np.repeat(random.uniform(0.5, 1, (count, 8, 8, 1)), len(BY_HAND), -1).astype(np.float32)


def test_by_hand_nearest_loses_two_steps_and_learning_none():
    photos = equal_inputs()
    options = dataclasses.replace(QUICK, iterations=300)
    done = learn_rounding(*pointwise(BY_HAND), batches=[photos], ranges={}, options=options)
    assert done.arrays["c/kernel"].sum() == 129
    (layer,) = done.layers
    judges = photos.reshape(-1, 6)[-25:, 0]  # the last fifth of 128 positions
    assert layer.error_nearest == pytest.approx(np.mean(np.square(2 * judges)), rel=1e-4)
    assert layer.error_learned == pytest.approx(0, abs=1e-8)
    assert (layer.changed, layer.weights) == (2, 6)


def test_regularization_begins_after_the_warm_start_and_its_exponent_falls():
    options = AdaRoundOptions(iterations=100, warm_start=0.2, regularization=0.3)
    schedule = Schedule.from_options(options)
    found = [_regularization(tf.constant(float(step)), schedule) for step in range(100)]
    exponents = np.array([float(beta) for beta, _ in found])
    weights = np.array([float(weight) for _, weight in found])
    np.testing.assert_array_equal(weights, np.where(np.arange(100) < 20, 0, np.float32(0.3)))
    np.testing.assert_allclose(exponents[:21], 20.0)
    assert (np.diff(exponents[20:]) < 0).all()
    # Half a cosine from 20 to 2 over 80 steps.
    expected = 2 + 18 * 0.5 * (1 + np.cos(np.pi * (np.arange(20, 100) - 20) / 80))
    np.testing.assert_allclose(exponents[20:], expected, rtol=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_learned_rounding_does_not_depend_on_the_unit_of_the_values(factor):
    """Kernel and outputs 1000 times larger or smaller, inputs 1000 times smaller or larger: the
    same steps are learned, since the error counts in steps of a weight."""
    options = dataclasses.replace(QUICK, iterations=300)
    description, arrays = pointwise(BY_HAND)
    plain = learn_rounding(
        description, arrays, batches=[equal_inputs()], ranges={}, options=options
    ).arrays["c/kernel"]
    scaled = {name: value * np.float32(factor) for name, value in arrays.items()}
    of_kernel = learn_rounding(
        description, scaled, batches=[equal_inputs()], ranges={}, options=options
    ).arrays["c/kernel"]
    np.testing.assert_allclose(of_kernel / factor, plain, rtol=1e-5)
    of_input = learn_rounding(
        description, arrays, batches=[equal_inputs() * factor], ranges={}, options=options
    ).arrays["c/kernel"]
    np.testing.assert_allclose(of_input, plain, rtol=1e-5)


def test_later_layers_see_what_earlier_ones_learned():
    description, arrays = pointwise(BY_HAND)
    nodes = (
        *description.nodes,
        Node("d", "conv2d", inputs=("c",), attributes={"filters": 1, "kernel_size": 1}),
    )
    longer = dataclasses.replace(description, nodes=nodes, output_name="d")
    arrays |= {"d/kernel": np.ones((1, 1, 1, 1), np.float32), "d/bias": np.zeros(1, np.float32)}
    options = dataclasses.replace(QUICK, iterations=300)
    first, second = learn_rounding(
        longer, arrays, batches=[equal_inputs()], ranges={}, options=options
    ).layers
    assert first.error_nearest > 1
    assert second.error_nearest == pytest.approx(0, abs=1e-8)


def test_a_channel_that_learning_makes_worse_elsewhere_stays_nearest():
    photos = equal_inputs(5)
    photos[4] *= np.array([0, 1, 0, 0, 1, 0])  # judges; 0.45 and 0.48 are better rounded down
    options = dataclasses.replace(QUICK, iterations=300)
    (layer,) = learn_rounding(
        *pointwise(BY_HAND), batches=[photos], ranges={}, options=options
    ).layers
    assert layer.changed == 0
    assert layer.error_learned == layer.error_nearest > 0


def test_the_input_is_the_one_of_the_integer_network():
    # One step is 1, so every pixel of 0.5 to 0.9 is 1 there; the kernel itself is exact.
    photos = equal_inputs()[..., :1] * 0.8 + 0.1
    done = learn_rounding(
        *pointwise([[127.0]]), batches=[photos], ranges={"image": (0.0, 255.0)}, options=QUICK
    )
    judges = photos.reshape(-1)[-25:]
    expected = np.mean(np.square(127 * (judges - 1)))
    assert done.layers[0].error_nearest == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("bias", "follower", "limits"),
    [
        (-500.0, Node("f", "relu", inputs=("c",)), {}),
        (500.0, Node("f", "relu", inputs=("c",), attributes={"max_value": 6.0}), {}),
        (
            500.0,
            Node("f", "channel_limit", inputs=("c",), attributes={"channels": 1}),
            {"f/limit": np.array([9.0])},
        ),
    ],
)
def test_errors_that_the_activation_hides_are_not_learned(bias, follower, limits):
    description, arrays = pointwise(BY_HAND, bias, follower)
    done = learn_rounding(
        description, arrays | limits, batches=[equal_inputs()], ranges={}, options=QUICK
    )
    (layer,) = done.layers
    assert (layer.error_nearest, layer.error_learned, layer.changed) == (0, 0, 0)


def test_a_leaky_activation_hides_nothing():
    follower = Node("f", "relu", inputs=("c",), attributes={"negative_slope": 0.1})
    description, arrays = pointwise(BY_HAND, -500.0, follower)
    (layer,) = learn_rounding(
        description, arrays, batches=[equal_inputs()], ranges={}, options=QUICK
    ).layers
    judges = equal_inputs().reshape(-1, 6)[-25:, 0]
    assert layer.error_nearest == pytest.approx(np.mean(np.square(0.2 * judges)), rel=1e-3)


def test_equalized_network_with_channel_limits():
    folded = fold_batch_norms(*chain())
    even = equalize(folded.description, folded.arrays)
    assert even.limits
    done = learn_rounding(
        even.description, even.arrays, batches=[images(even.description)], ranges={}, options=QUICK
    )
    check_grid(even.description, done.arrays, even.arrays)


def test_the_same_seed_gives_the_same_kernels():
    description, arrays = classifier()
    photos = images(description, 3)

    def rounded(seed):
        options = dataclasses.replace(QUICK, seed=seed, sample_pixels=300)
        return learn_rounding(
            description, arrays, batches=[photos], ranges={}, options=options
        ).arrays

    first, again, other = rounded(0), rounded(0), rounded(1)
    for key, value in first.items():
        np.testing.assert_array_equal(again[key], value, err_msg=key)
    assert any((other[key] != value).any() for key, value in first.items())


def test_dead_channels_and_kernels_stay_zero():
    folded = fold_batch_norms(*chain())
    arrays = {key: value.copy() for key, value in folded.arrays.items()}
    arrays["narrow/kernel"][..., 3] = 0
    arrays["wide/depthwise_kernel"][:, :, 5] = 0
    arrays["branch/kernel"][:] = 0
    for per_channel in (True, False):
        done = learn_rounding(
            folded.description,
            arrays,
            batches=[images(folded.description)],
            ranges={},
            options=QUICK,
            per_channel=per_channel,
        )
        assert all(np.isfinite(value).all() for value in done.arrays.values())
        assert not done.arrays["narrow/kernel"][..., 3].any()
        assert not done.arrays["wide/depthwise_kernel"][:, :, 5].any()
        assert not done.arrays["branch/kernel"].any()


def test_one_image_is_enough_and_progress_is_reported():
    description, arrays = classifier()
    told = []
    done = learn_rounding(
        description,
        arrays,
        batches=[images(description, 1)],
        ranges={},
        options=QUICK,
        progress=told.append,
    )
    assert told == list(done.layers)
    # The dense layer has one position: it is compared on its training position.
    assert done.layers[-1].error_learned <= done.layers[-1].error_nearest


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(4, 3, strides=2, padding="same"),
        layers.Conv2D(4, (2, 3), strides=(3, 2), padding="valid"),
        layers.Conv2D(4, 3, dilation_rate=(2, 3), padding="same"),
        layers.Conv2D(4, 1, strides=2, padding="same"),
        layers.Conv2D(6, 3, groups=2, padding="same"),
        layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2),
        layers.DepthwiseConv2D(3, dilation_rate=3, padding="same"),
        layers.Dense(5),
    ],
    ids=lambda layer: layer.name,
)
def test_windows_contain_the_layer_inputs(layer):
    image = keras.Input((11, 14, 4), name="image")
    description, arrays = graph_from_keras(keras.Model(image, layer(image)))
    (node,) = description.nodes
    photos = images(description, 2)
    expected = layer(photos).numpy()
    kernel = arrays[kernel_key(node)]
    positions = np.arange(expected[..., 0].size)[::-3]
    windows = windows_at(
        node, kernel.shape, value=photos, output_shape=expected.shape, positions=positions
    )
    if node.kind == "depthwise_conv2d":
        flat = kernel.reshape(-1, *kernel.shape[2:])
        given = np.einsum("ptc,tcm->pcm", windows, flat).reshape(len(positions), -1)
    elif layer.get_config().get("groups", 1) == 2:
        halves = zip(np.split(windows, 2, -1), np.split(kernel, 2, -1), strict=True)
        given = np.concatenate(
            [np.einsum("ptc,tco->po", x, k.reshape(-1, *k.shape[2:])) for x, k in halves], -1
        )
    else:
        flat = kernel.reshape(-1, *kernel.shape[-2:])
        given = np.einsum("ptc,tco->po", windows, flat)
    wanted = expected.reshape(-1, expected.shape[-1])[positions]
    np.testing.assert_allclose(given, wanted, atol=1e-5)


@pytest.mark.parametrize("groups", [1, 2])
def test_windows_and_groups_belong_to_their_weights(groups):
    keras.utils.set_random_seed(5)
    image = keras.Input((12, 12, 4), name="image")
    x = layers.Conv2D(6, 3, groups=groups, padding="same", name="c")(image)
    description, arrays = graph_from_keras(keras.Model(image, x))
    # Neighbours and channels are alike, as in photos: errors of weights can cancel.
    photos = np.cumsum(np.cumsum(images(description, 8), 1), 2) / 8 + 1
    options = dataclasses.replace(QUICK, iterations=200)
    done = learn_rounding(description, arrays, batches=[photos[:6]], ranges={}, options=options)
    check_grid(description, done.arrays, arrays)
    expected = built(description, arrays)(photos[6:]).numpy()

    def error(rounded):
        return np.square(built(description, rounded)(photos[6:]).numpy() - expected).mean()

    ratio = error(done.arrays) / error(nearest(description, arrays))
    assert ratio < 0.5, ratio  # 0.10 and 0.20 measured


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1; got 0"),
        ({"batch_pixels": 0}, "batch_pixels must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"regularization": float("nan")}, "regularization must be positive"),
        ({"warm_start": 1.0}, r"warm_start must be in \[0, 1\)"),
        ({"beta_start": 2.0, "beta_end": 20.0}, "expected 1 < beta_end <= beta_start"),
        ({"seed": -1}, "seed must be 0 or more"),
    ],
)
def test_options_out_of_bounds_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        AdaRoundOptions(**values)


def test_invalid_images_arrays_and_ranges_are_rejected():
    description, arrays = pointwise(BY_HAND)
    photos = equal_inputs()

    def learn(batches=(photos,), changed=None, ranges=None):
        learn_rounding(
            description,
            arrays | (changed or {}),
            batches=batches,
            ranges=ranges or {},
            options=QUICK,
        )

    with pytest.raises(ValueError, match="no calibration images"):
        learn(batches=[])
    with pytest.raises(ValueError, match="no calibration images"):
        learn(batches=[photos[:0]])
    with pytest.raises(ValueError, match=r"batch 1 has shape \[2, 4, 8, 6\]"):
        learn(batches=[photos, photos[:, :4]])
    with pytest.raises(ValueError, match="batch 0 contains NaN"):
        learn(batches=[photos * np.nan])
    with pytest.raises(ValueError, match="c/kernel contains NaN or infinity"):
        learn(changed={"c/kernel": arrays["c/kernel"] * np.nan})
    with pytest.raises(ValueError, match=r"c/bias: expected shape \(1,\), got shape \(2,\)"):
        learn(changed={"c/bias": np.zeros(2, np.float32)})
    with pytest.raises(ValueError, match="'nowhere', which is not a node"):
        learn(ranges={"nowhere": (0.0, 1.0)})
    with pytest.raises(ValueError, match="'c' must be finite with 0 inside"):
        learn(ranges={"c": (1.0, 2.0)})
    with pytest.raises(ValueError, match="c/kernel is missing"):
        learn_rounding(description, {}, batches=[photos], ranges={}, options=QUICK)

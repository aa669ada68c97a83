"""Elimination against brute force, importances against their definition, reconstruction."""

import itertools

import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.kernels import bias_key, kernel_key
from deeplab_tf.pruning import selection
from deeplab_tf.pruning.channel_groups import find_channels
from deeplab_tf.pruning.layer_inputs import Moments, as_matrix, input_rows
from deeplab_tf.pruning.reconstruction import reconstruct
from deeplab_tf.pruning.removal import remove_channels, with_biases
from deeplab_tf.pruning.selection import Reader, select_channels
from deeplab_tf.pruning.sensitivity import measure_effects, taylor_importance

layers = keras.layers
SIZE = (10, 12)


def network(kind, seed=0):
    """A convolution of six channels and a layer of a kind that reads them."""
    keras.utils.set_random_seed(seed)
    image = keras.Input((*SIZE, 3), name="image")
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="first")(image)
    reader = {
        "1x1": layers.Conv2D(4, 1, name="second"),
        "3x3": layers.Conv2D(4, 3, strides=2, padding="same", name="second"),
        "dilated": layers.Conv2D(4, 3, dilation_rate=2, name="second"),
        "transposed": layers.Conv2DTranspose(4, 2, strides=2, name="second"),
        "dense": layers.Dense(4, name="second"),
    }[kind]
    x = layers.Activation("relu", name="relu")(reader(x))
    return with_biases(*graph_from_keras(keras.Model(image, layers.Dense(3, name="scores")(x))))


def pictures(count=3):
    random = np.random.default_rng(1)
    return [random.normal(size=(1, *SIZE, 3)).astype(np.float32) for _ in range(count)]


def rows_of(description, arrays, name, photos):
    """Features and outputs of a layer over all photos, from the executor's own values."""
    executor = Executor(description, arrays)
    node, features, outputs = description.node(name), [], []
    for photo in photos:
        run = executor.start([photo], hold={node.inputs[0], name})
        for each in description.nodes:
            run.step(each)
        value = run.value(node.inputs[0], 0)
        features.append(input_rows(node, value, kernel=arrays[kernel_key(node)]))
        outputs.append(np.asarray(run.value(name, 0)).reshape(-1, 4))
    return np.concatenate(features), np.concatenate(outputs)


@pytest.mark.parametrize("kind", ["1x1", "3x3", "dilated", "dense"])
def test_features_times_matrix_is_what_the_layer_computes(kind):
    description, arrays = network(kind)
    x, y = rows_of(description, arrays, "second", pictures())
    node = description.node("second")
    product = x @ as_matrix(node, arrays[kernel_key(node)]) + arrays[bias_key(node)]
    np.testing.assert_allclose(product, y, atol=1e-5)


@pytest.mark.parametrize("kind", ["1x1", "3x3", "dilated", "dense"])
def test_elimination_is_the_best_of_all_single_channels_by_least_squares(kind, monkeypatch):
    monkeypatch.setattr(selection, "RIDGE", 1e-9)
    description, arrays = network(kind)
    channels = find_channels(description, arrays)
    group = channels.groups[0]
    x, y = rows_of(description, arrays, "second", pictures())
    node, effect = description.node("second"), np.array([1.0, 2.0, 0.5, 3.0])
    reader = Reader(node, Moments.of(x), effect)
    five, four = select_channels(group, channels, readers=[reader], arrays=arrays, keep=[5, 4])
    centred = x.astype(np.float64) - x.mean(0)
    target = y.astype(np.float64) - y.mean(0)

    def brute(left):
        columns = np.isin(np.arange(x.shape[1]) % 6, left)
        fit, *_ = np.linalg.lstsq(centred[:, columns], target, rcond=None)
        rest = target - centred[:, columns] @ fit
        return float((np.square(rest).mean(0) * effect).sum())

    errors = {tuple(left): brute(left) for left in itertools.combinations(range(6), 5)}
    ids = channels.read_by(node)
    kept = tuple(np.flatnonzero(~np.isin(ids, five.removed)).tolist())
    assert kept == min(errors, key=errors.get)
    assert five.error == pytest.approx(errors[kept], rel=1e-4)
    both = np.flatnonzero(~np.isin(ids, four.removed)).tolist()
    assert len(both) == 4
    assert set(both) < set(kept)
    # Greedy: the error of the pair is exact, though another pair may be better.
    assert four.error == pytest.approx(brute(both), rel=1e-4)
    fitted = as_matrix(node, four.arrays[kernel_key(node)])
    rest = y - x @ fitted - four.arrays[bias_key(node)]
    assert float((np.square(rest).mean(0) * effect).sum()) == pytest.approx(four.error, rel=1e-3)
    assert np.abs(rest.mean(0)).max() < 1e-4


@pytest.mark.parametrize("kind", ["1x1", "3x3", "transposed", "dense"])
def test_a_copy_of_a_channel_costs_nothing(kind):
    description, arrays = network(kind)
    for key in ("first_linear/kernel", "first_linear/bias"):
        arrays[key] = arrays[key].copy()
        arrays[key][..., 4] = 2 * arrays[key][..., 1]
    channels = find_channels(description, arrays)
    photos = pictures()
    x, _ = rows_of(description, arrays, "second", photos)
    reader = Reader(description.node("second"), Moments.of(x), np.ones(4))
    (found,) = select_channels(
        channels.groups[0], channels, readers=[reader], arrays=arrays, keep=[5]
    )
    ids = channels.ids["first"]
    assert found.removed[0] in (ids[1], ids[4])
    whole = Executor(description, arrays).run(photos[0])
    fitted = Executor(description, arrays | found.arrays).run(photos[0])
    # The ridge of 0.1 % keeps the fit from being exact.
    assert np.abs(fitted - whole).max() < 5e-3 * np.abs(whole).max()


def test_given_scores_decide():
    description, arrays = network("1x1")
    channels = find_channels(description, arrays)
    group = channels.groups[0]
    x, _ = rows_of(description, arrays, "second", pictures())
    reader = Reader(description.node("second"), Moments.of(x), np.ones(4))
    scores = {channel: float(place) for place, channel in enumerate(group.channels)}
    (found,) = select_channels(
        group, channels, readers=[reader], arrays=arrays, keep=[4], scores=scores
    )
    assert found.removed == group.channels[:2]


def test_effects_are_squared_derivatives_of_the_output():
    description, arrays = network("dense")
    photos = pictures(1)
    found = measure_effects(Executor(description, arrays), ["scores"], images=photos)
    # The output itself: each of its 10 * 12 values changes by what is added to it, so
    # E[v^2] summed is a chi-squared of 120 values: within 5 standard deviations, 5 sqrt(240).
    assert found["scores"] == pytest.approx(np.full(3, 120.0), abs=78)
    before = measure_effects(Executor(description, arrays), ["relu"], images=photos, seed=3)
    kernel = arrays["scores/kernel"]
    exact = 120 * np.square(kernel).sum(1)
    assert before["relu"] == pytest.approx(exact, rel=0.6)


def test_taylor_importance_is_the_first_order_change_of_the_loss():
    description, arrays = network("1x1")
    channels = find_channels(description, arrays)
    labels = [np.random.default_rng(2).integers(0, 3, SIZE).astype(np.uint8)]
    photo = pictures(1)
    executor = Executor(description, arrays)
    found = taylor_importance(executor, channels, images=photo, labels=labels)

    def loss(factor, channel):
        def scale(node, value):
            if node.name == "first":
                return value * np.where(np.arange(6) == channel, factor, 1).astype(np.float32)
            return None

        logits = np.asarray(executor.run(photo[0], scale), np.float64)[0]
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        return -np.take_along_axis(logs, labels[0][..., None].astype(int), -1).mean()

    for place, channel in enumerate(channels.ids["first"].tolist()):
        slope = (loss(1.003, place) - loss(0.997, place)) / 0.006
        # The two ReLUs have kinks within the step.
        assert found[channel] == pytest.approx(slope**2, rel=0.02, abs=2e-7)


def test_reconstruction_follows_the_unpruned_network():
    """Two residual blocks; of the first, half of the channels are copies of the other half."""
    keras.utils.set_random_seed(5)
    image = keras.Input((*SIZE, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", name="start")(image)
    for block in ("a", "b"):
        y = layers.Conv2D(24, 1, activation="relu6", name=f"{block}_expand")(x)
        y = layers.DepthwiseConv2D(3, padding="same", activation="relu6", name=f"{block}_depth")(y)
        x = layers.Add(name=f"{block}_sum")([x, layers.Conv2D(8, 1, name=f"{block}_project")(y)])
    model = keras.Model(image, layers.Conv2D(3, 1, name="scores")(x))
    description, arrays = with_biases(*graph_from_keras(model))
    for key in ("a_expand_linear/kernel", "a_expand_linear/bias"):
        arrays[key][..., 12:] = arrays[key][..., :12]
    arrays["a_depth_linear/depthwise_kernel"][:, :, 12:] = (
        1.5 * arrays["a_depth_linear/depthwise_kernel"][:, :, :12]
    )
    channels = find_channels(description, arrays)
    group = next(group for group in channels.groups if group.name == "a_expand")
    removed = group.channels[:12]
    small = remove_channels(description, arrays, channels=channels, removed=removed)
    photos = pictures(4)
    fitted = reconstruct(
        (description, arrays), small, channels=channels, removed=removed, images=photos[:3]
    )
    whole = np.asarray(Executor(description, arrays).run(photos[3]))
    errors = [
        float(np.square(np.asarray(Executor(small[0], each).run(photos[3])) - whole).mean())
        for each in (small[1], fitted)
    ]
    assert errors[1] < 0.01 * errors[0]
    np.testing.assert_array_equal(fitted["start/kernel"], arrays["start/kernel"])
    np.testing.assert_array_equal(
        fitted["a_expand_linear/kernel"], small[1]["a_expand_linear/kernel"]
    )
    assert np.abs(fitted["b_project/kernel"] - arrays["b_project/kernel"]).max() > 1e-4

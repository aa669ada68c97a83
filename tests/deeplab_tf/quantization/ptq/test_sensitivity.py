"""Units, switches and the ranking, on trained weights."""

import functools

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.quantization.ptq import sensitivity
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from deeplab_tf.quantization.ptq.sensitivity import (
    NetworkScorer,
    Score,
    Sensitivity,
    SwitchedNetwork,
    Unit,
    choose_float_units,
    find_units,
    measure_sensitivity,
    units_named,
)
from deeplab_tf.quantization.qat.apply import float_weights
from tests.decibels import snr_db
from tests.zoo import LIVE_SIZE, scenes, trained_float_model

INPUT_RANGE = (-1.0, 127 / 128)


@functools.lru_cache(maxsize=1)
def post_trained():
    return quantize_post_training(
        trained_float_model(), PostTraining(), batches=[scenes(4)], input_range=INPUT_RANGE
    )


@functools.lru_cache(maxsize=2)
def network(per_channel=True):
    done = post_trained()
    return SwitchedNetwork(
        done.description, done.arrays, ranges=done.ranges, per_channel=per_channel
    )


def test_units_hold_each_kernel_and_each_range_once():
    units = {unit.name: unit for unit in network().units}
    assert units["block_2_depthwise"].layers == ("block_2_depthwise", "block_2_depthwise_relu")
    assert units["block_2_depthwise"].weights == 3 * 3 * 144
    assert units["block_2_add"].weights == 0
    layers = [name for unit in units.values() for name in unit.layers]
    assert len(layers) == len(set(layers))
    assert set(post_trained().ranges) <= set(layers)
    kernels = [k for k in float_weights(post_trained().model) if k.endswith("kernel")]
    assert sum(unit.weights > 0 for unit in units.values()) == len(kernels)


def test_all_float_is_the_float_network_and_all_integer_the_quantized_one():
    image = scenes(1)
    switched = network()
    switched.set_integer(set())
    wanted = trained_float_model()(image).numpy()
    assert snr_db(wanted, switched.executor.run(image).numpy()) > 80
    switched.set_integer({unit.name for unit in switched.units})
    simulated, planned = switched.executor.run(image).numpy(), post_trained().model(image).numpy()
    # Both round alike; a value on the edge of a step may fall on either side of it.
    assert snr_db(planned, simulated) > snr_db(wanted, planned) + 3
    switched.set_integer(set())
    assert snr_db(wanted, switched.executor.run(image).numpy()) > 80


def test_one_scale_a_kernel_costs_more_and_depthwise_most():
    images = scenes(2)
    labels = np.zeros((2, *LIVE_SIZE), np.uint8)
    chosen = ("expanded_conv_depthwise", "block_1_depthwise", "aspp_1x1_conv", "block_16_expand")
    found = {}
    for per_channel in (True, False):
        judge = NetworkScorer(network(per_channel), images, labels=labels, num_classes=11)
        units = [unit for unit in network(per_channel).units if unit.name in chosen]
        found[per_channel] = measure_sensitivity(units, judge, images=2)
        ranked = [score.snr_db for score in found[per_channel].only_integer]
        assert ranked == sorted(ranked)
        assert found[per_channel].all_float.snr_db == np.inf
    assert found[False].units[0].name.endswith("depthwise")
    assert found[False].only_integer[0].snr_db < found[True].only_integer[0].snr_db - 3
    # Float again where it hurts most: one of 79 units gives 2.7 dB back.
    assert found[False].only_float[0].snr_db > found[False].all_integer.snr_db + 1


def test_a_float_unit_gives_8_bits_to_an_integer_reader():
    # Alone float, an addition between integer layers gains nothing: its file rounds it, too.
    switched = network()
    names = {unit.name for unit in switched.units}
    judge = NetworkScorer(
        switched, scenes(1), labels=np.zeros((1, *LIVE_SIZE), np.uint8), num_classes=11
    )
    assert judge.score(names - {"block_2_add"}) == judge.score(names)
    assert judge.score(set()).snr_db == np.inf


def test_a_dropout_between_a_kernel_and_its_range():
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, padding="same", name="first")(image)
    x = layers.Dropout(0.1, name="drop")(x)
    x = layers.ReLU(name="active")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, use_bias=False, name="logits")(x))
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    done = quantize_post_training(model, PostTraining(), batches=[batch], input_range=INPUT_RANGE)
    units = {
        unit.name: unit.layers
        for unit in SwitchedNetwork(done.description, done.arrays, ranges=done.ranges).units
    }
    assert units == {"first": ("first", "active"), "logits": ("logits",)}


def test_a_layer_with_its_activation_inside_goes_by_its_keras_name():
    layers = keras.layers
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(image)
    x = layers.Conv2D(4, 3, name="body")(x)
    x = layers.ReLU(name="body_relu")(x)
    model = keras.Model(image, layers.Conv2D(2, 1, name="logits")(x))
    batch = np.random.default_rng(0).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    done = quantize_post_training(model, PostTraining(), batches=[batch], input_range=INPUT_RANGE)
    switched = SwitchedNetwork(done.description, done.arrays, ranges=done.ranges)
    units = switched.units
    assert [unit.name for unit in units] == ["stem", "body", "logits"]
    assert units[0].layers == ("stem_linear", "stem")
    assert units[0].weights == 3 * 3 * 3 * 4
    found = units_named(units, ["stem", "stem_linear", "body_relu"])
    assert [unit.name for unit in found] == ["stem", "stem", "body"]
    with pytest.raises(ValueError, match=r"no separate layer 'steam'; similar names: stem"):
        units_named(units, ["steam"])
    kernel = switched.executor.weight("stem_linear/kernel")
    before = kernel.numpy()
    switched.set_integer({"stem"})
    assert np.abs(kernel.numpy() - before).max() > 0
    # Of an unknown layer nothing is switched.
    image = keras.Input((16, 16, 3))
    model = keras.Model(image, layers.Dense(2, name="odd")(layers.Conv2D(4, 3, name="a")(image)))
    assert [unit.name for unit in find_units(*graph_from_keras(model))] == ["a"]


class FakeJudge:
    """mIoU 0.7 less 0.01 for each of the first three layers that is integer."""

    def score(self, integer):
        return Score(0.7 - 0.01 * len(integer & {"a", "b", "c"}), 20.0)


def ranked(names="abcdefgh"):
    scores = tuple(Score(0.7, 20.0) for _ in names)
    units = tuple(Unit(name, (name,), weights=1) for name in names)
    return Sensitivity(
        units,
        scores,
        only_float=scores,
        all_float=Score(0.7, np.inf),
        all_integer=Score(0.67, 20.0),
        images=1,
    )


@pytest.mark.parametrize(
    ("budget", "wanted"), [(0.03, ""), (0.025, "a"), (0.011, "ab"), (0, "abc")]
)
def test_budget_by_hand(budget, wanted):
    names, score = choose_float_units(ranked(), FakeJudge(), budget=budget)
    assert "".join(names) == wanted
    assert score.miou == pytest.approx(0.7 - 0.01 * (3 - len(wanted)))


def test_bad_input():
    with pytest.raises(ValueError, match=r"must not be negative; got -0\.1"):
        choose_float_units(ranked(), FakeJudge(), budget=-0.1)


def test_kernel_of_zeros_stays_finite():
    done = post_trained()
    arrays = {
        key: np.zeros_like(value) if key.startswith("block_1_depthwise/") else value
        for key, value in done.arrays.items()
    }
    switched = sensitivity.SwitchedNetwork(done.description, arrays, ranges=done.ranges)
    switched.set_integer({unit.name for unit in switched.units})
    assert np.isfinite(switched.executor.run(scenes(1)).numpy()).all()


class PlantedNetwork:
    """All pixels of class 0 but one in a hundred; that one is class 2 while anything is integer."""

    def __init__(self):
        self._stray = tf.Variable(0.0)

    def set_integer(self, names):
        self._stray.assign(float(bool(names)))

    @property
    def executor(self):
        return self

    def run(self, image):
        logits = tf.one_hot(tf.zeros(image.shape[:3], tf.int32), 3)
        corner = tf.scatter_nd([[0, 0, 0]], [[-1.0, 1.0, 2.0]], logits.shape)
        return logits + tf.where(self._stray > 0, corner, corner * [1.0, 1.0, 0.0])


def test_a_class_that_no_label_holds_does_not_enter_a_budget():
    """100 pixels, 99 of class 0 and one of class 1. Float finds both; integer takes the one for
    class 2, which no label holds: class 0 stays whole, class 1 is lost, a mean of 1/2. Over the
    classes with a union it would be 1/3: 17 points for a class that is not there."""
    label = np.zeros((1, 10, 10), np.uint8)
    label[0, 0, 0] = 1
    judge = NetworkScorer(
        PlantedNetwork(), np.zeros((1, 10, 10, 3), np.float32), labels=label, num_classes=3
    )
    assert judge.score(set()).miou == 1.0
    assert judge.score({"unit"}).miou == 0.5

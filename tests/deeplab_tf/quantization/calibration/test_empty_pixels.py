"""Pixels of range images without a return do not influence ranges, biases or rounding."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.adaround.grid import Grid
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.adaround.sample import draw_sample
from deeplab_tf.quantization.calibration.activation_ranges import observe
from deeplab_tf.quantization.calibration.empty_pixels import (
    PixelWeights,
    empty_share,
    pixel_weights,
)
from deeplab_tf.quantization.ptq.bias_absorption import absorb_high_biases
from deeplab_tf.quantization.ptq.bias_correction import correct_empirically
from deeplab_tf.quantization.ptq.equalization import equalize
from deeplab_tf.quantization.ptq.post_training import PostTraining, quantize_post_training
from tests.deeplab_tf.quantization.networks import chain, images
from tests.zoo import scenes, trained_float_model

INPUT_RANGE = (-1.0, 127 / 128)


def test_positions_weigh_their_share_of_the_image():
    batch = np.zeros((2, 4, 4, 5), np.float32)
    batch[0, :2, :2, 3] = 0.5  # one channel is enough
    batch[0, 3, 3, 0] = -0.25
    weights = PixelWeights(batch)
    assert weights.of(np.zeros((2, 4, 4, 9))).tolist() == (batch != 0).any(-1).ravel().tolist()
    assert weights.of(np.zeros((2, 2, 2, 7))).tolist() == [1, 0, 0, 0.25, 0, 0, 0, 0]
    assert weights.of(np.zeros((2, 1, 1, 7))).tolist() == [5 / 16, 0]
    assert weights.of(np.zeros((2, 7))).tolist() == [1, 1]  # after a pool without positions
    assert empty_share([batch]) == 27 / 32
    assert pixel_weights([batch, batch], False) == [None, None]


def equalized_chain():
    folded = fold_batch_norms(*chain())
    return equalize(folded.description, folded.arrays)


def full_and_empty():
    """Three images, and the same followed by three empty ones."""
    first = equalized_chain()
    seen = images(first.description, 3)
    return first, seen, np.concatenate([seen, np.zeros_like(seen)])


def test_an_empty_image_changes_no_histogram():
    network, seen, mixed = full_and_empty()
    names = [node.name for node in network.description.nodes]
    before = network.description, network.arrays
    wanted = observe(*before, names=names, batches=[seen])
    found = observe(*before, names=names, batches=[mixed], ignore_empty=True)
    counted = observe(*before, names=names, batches=[mixed])
    for name in names:
        assert (found[name].low, found[name].high) == (wanted[name].low, wanted[name].high)
        np.testing.assert_array_equal(found[name].counts, wanted[name].counts)
    assert any(counted[name].counts.sum() > 1.9 * wanted[name].counts.sum() for name in names)


def test_an_empty_image_moves_no_bias():
    network, seen, mixed = full_and_empty()
    before = network.description, network.arrays
    wanted = correct_empirically(*before, batches=[seen], ranges={}, per_channel=False)
    found = correct_empirically(
        *before, batches=[mixed], ranges={}, per_channel=False, ignore_empty=True
    )
    counted = correct_empirically(*before, batches=[mixed], ranges={}, per_channel=False)
    assert len(wanted.corrections) >= 5
    differs = []
    for name, shift in wanted.corrections.items():
        largest = np.abs(shift).max()
        np.testing.assert_allclose(found.corrections[name], shift, atol=1e-3 * largest + 1e-6)
        differs.append(np.abs(counted.corrections[name] - shift).max() > 0.01 * largest)
    assert any(differs)


def test_an_empty_image_changes_nothing_that_is_absorbed():
    network, seen, mixed = full_and_empty()
    before = network.description, network.arrays
    wanted = absorb_high_biases(*before, batches=[seen])
    found = absorb_high_biases(*before, batches=[mixed], ignore_empty=True)
    counted = absorb_high_biases(*before, batches=[mixed])
    assert wanted.absorbed
    assert list(found.absorbed) == list(wanted.absorbed)
    for name, value in wanted.absorbed.items():
        np.testing.assert_allclose(found.absorbed[name], value, rtol=1e-4, atol=1e-5)
    name, value = next(iter(wanted.absorbed.items()))
    assert np.abs(counted.absorbed.get(name, 0 * value) - value).max() > 0.01 * value.max()


def test_rounding_learns_from_positions_that_see_something():
    attributes = {"filters": 1, "kernel_size": 1, "strides": 2, "padding": "same"}
    node = Node("c", "conv2d", inputs=("image",), attributes=attributes)
    description = NetworkGraph("image", (8, 8, 1), nodes=(node,), output_name="c")
    arrays = {"c/kernel": np.ones((1, 1, 1, 1), np.float32), "c/bias": np.zeros(1, np.float32)}
    batch = np.zeros((2, 8, 8, 1), np.float32)
    batch[0, :4, :4] = 0.5  # 4 of 16 positions of the first photo, none of the second
    given, wanted = tf.constant(batch), Executor(description, arrays).run(batch)
    options = dataclasses.replace(AdaRoundOptions(), sample_pixels=64)
    grid = Grid.from_kernel(node, arrays["c/kernel"], per_channel=True)

    def drawn(weights_of_batches):
        return draw_sample(
            grid,
            [given],
            outputs=[wanted],
            options=options,
            random=np.random.default_rng(0),
            weights_of_batches=weights_of_batches,
        )

    sample = drawn(pixel_weights([batch], True))
    assert sample.targets.tolist() == [[0.5]] * 4
    every = drawn([None])
    assert len(every.targets) == 32


def test_the_steps_together_say_how_much_was_left_out():
    photos = scenes(4).copy()
    photos[:, ::2] = 0
    model = trained_float_model()
    done = quantize_post_training(
        model, PostTraining(ignore_empty=True), batches=[photos], input_range=INPUT_RANGE
    )
    assert "50% of the pixels are empty, excluded from statistics" in done.report
    with pytest.raises(ValueError, match="every pixel of every calibration image is empty"):
        quantize_post_training(
            model,
            PostTraining(ignore_empty=True),
            batches=[np.zeros_like(photos)],
            input_range=INPUT_RANGE,
        )

"""Absorption, bias correction, and the steps together, on trained weights."""

import dataclasses
import math

import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.graph.executor import Executor
from deeplab_tf.graph.fold_batch_norm import fold_batch_norms
from deeplab_tf.graph.kernels import kernel_key
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.quantization.adaround.adaround import learn_rounding
from deeplab_tf.quantization.adaround.options import AdaRoundOptions
from deeplab_tf.quantization.ptq import post_training
from deeplab_tf.quantization.ptq.bias_absorption import absorb_high_biases
from deeplab_tf.quantization.ptq.bias_correction import (
    clipped_normal_mean,
    correct_analytically,
    correct_empirically,
    quantize_kernel,
)
from deeplab_tf.quantization.ptq.equalization import Relu6, equalize
from deeplab_tf.quantization.ptq.post_training import (
    BiasMethod,
    PostTraining,
    quantize_post_training,
)
from tests.decibels import snr_db
from tests.deeplab_tf.quantization.networks import (
    NETWORKS,
    built,
    chain,
    deeplab,
    images,
    with_true_batch_norms,
)
from tests.zoo import scenes, trained_float_model

INPUT_RANGE = (-1.0, 127 / 128)


@pytest.mark.parametrize("name", NETWORKS)
def test_executor_equals_the_keras_model(name):
    description, arrays = NETWORKS[name]()
    image = images(description)
    expected = np.asarray(built(description, arrays)(image))
    np.testing.assert_allclose(
        Executor(description, arrays).run(image), expected, rtol=1e-4, atol=1e-4
    )


def absorbed_and_before(name):
    """The network before and after absorption, its four images and four others."""
    folded = fold_batch_norms(*NETWORKS[name]())
    first = equalize(folded.description, folded.arrays)
    if name == "deeplab":
        seen, fresh = scenes(8)[:4], scenes(8)[4:]
    else:
        seen, fresh = (images(folded.description, 4, seed) for seed in (11, 12))
    done = absorb_high_biases(first.description, first.arrays, batches=[seen])
    assert sum((c > 0).sum() for c in done.absorbed.values()) >= 4
    networks = [built(one.description, one.arrays) for one in (first, done)]
    return networks, seen, fresh


@pytest.mark.parametrize("name", NETWORKS)
def test_absorption_keeps_the_function_on_its_images(name):
    networks, seen, _ = absorbed_and_before(name)
    expected, found = (np.asarray(network(seen)) for network in networks)
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-4


# Measured: 29.3 dB and 97.9 %, 60.8 dB, 74.0 dB. The deep layers of the small DeepLab have 48
# pixels per image: four images say little about the extremes of their channels.
@pytest.mark.parametrize(
    ("name", "least_db", "least_agreement"),
    [("deeplab", 26, 0.96), ("chain", 50, 0.999), ("classifier", 60, 0.999)],
)
def test_absorption_approximates_the_function_on_other_images(name, least_db, least_agreement):
    """A channel that falls below its c there is cut off: the method accepts it."""
    networks, _, fresh = absorbed_and_before(name)
    expected, found = (np.asarray(network(fresh)) for network in networks)
    assert (found != expected).any()
    assert snr_db(expected, found) > least_db
    assert (found.argmax(-1) == expected.argmax(-1)).mean() > least_agreement


def test_absorption_by_hand():
    # One channel: x in {1, 2}, W1 = 1, b1 = 10: inputs of the ReLU 11 and 12, mean 11.5,
    # deviation 0.5; c = min(11.5 - 1.5, 11) = 10. W2 = 3, b2 = 1 becomes 31.
    nodes = (
        Node("a", "conv2d", inputs=("image",), attributes={"filters": 1, "kernel_size": 1}),
        Node("r", "relu", inputs=("a",)),
        Node("b", "conv2d", inputs=("r",), attributes={"filters": 1, "kernel_size": 1}),
    )
    arrays = {"a/kernel": 1.0, "a/bias": 10.0, "b/kernel": 3.0, "b/bias": 1.0}
    shapes = {"kernel": (1, 1, 1, 1), "bias": (1,)}
    arrays = {
        key: np.full(shapes[key.split("/")[1]], value, np.float32) for key, value in arrays.items()
    }
    description = NetworkGraph("image", (1, 2, 1), nodes=nodes, output_name="b")
    batch = np.array([1, 2], np.float32).reshape(1, 1, 2, 1)
    done = absorb_high_biases(description, arrays, batches=[batch])
    assert done.arrays["a/bias"].item() == pytest.approx(0.0)
    assert done.arrays["b/bias"].item() == pytest.approx(31.0)
    assert done.absorbed == {"a": pytest.approx([10.0])}


def limited_channels(pixels, limit=6.0):
    """Four channels with a limit each, read by one sum; channel k gives pixels + (58, 8, 3, 58)[k],
    the last one without pixels: a constant."""
    nodes = (
        Node("a", "conv2d", inputs=("image",), attributes={"filters": 4, "kernel_size": 1}),
        Node("r", "channel_limit", inputs=("a",), attributes={"channels": 4}),
        Node("b", "conv2d", inputs=("r",), attributes={"filters": 1, "kernel_size": 1}),
    )
    arrays = {
        "a/kernel": np.array([1, 1, 1, 0], np.float32).reshape(1, 1, 1, 4),
        "a/bias": np.array([58, 8, 3, 58], np.float32),
        "r/limit": np.full(4, limit, np.float32),
        "b/kernel": np.array([1, 2, 3, 4], np.float32).reshape(1, 1, 4, 1),
        "b/bias": np.array([0.5], np.float32),
    }
    description = NetworkGraph("image", (1, len(pixels), 1), nodes=nodes, output_name="b")
    return description, arrays, np.array(pixels, np.float32).reshape(1, 1, -1, 1)


def output_of(description, arrays, batch, name):
    found = []
    Executor(description, arrays).run(
        batch, lambda node, value: found.append(value) if node.name == name else None
    )
    return np.asarray(found[0])


def test_absorption_is_bounded_by_a_channel_s_limit():
    """Pixels -0.5 and 0.5: deviation 0.5. By hand, min(mean, limit) - 3 * 0.5:

    58 +- 0.5, limit 6: min(58, 6) - 1.5 = 4.5, not 56.5 with a limit of -50.5
     8 +- 0.5, limit 6: 4.5, too; the paper's 6.5 would leave a limit of -0.5
     3 +- 0.5, limit 6: 1.5, the paper's
    58 without deviation: 6 less the 256th part that stays
    """
    description, arrays, batch = limited_channels([-0.5, 0.5])
    done = absorb_high_biases(description, arrays, batches=[batch])
    expected = np.array([4.5, 4.5, 1.5, 6 - 6 / 256])
    np.testing.assert_allclose(done.absorbed["a"], expected, rtol=1e-6)
    np.testing.assert_allclose(done.arrays["r/limit"], 6 - expected, rtol=1e-6)
    before, behind = (output_of(description, part, batch, "b") for part in (arrays, done.arrays))
    np.testing.assert_allclose(behind, before, rtol=1e-6)
    # What flows between the layers fits in a range that is narrower, not nine times wider.
    old, new = (output_of(description, part, batch, "r") for part in (arrays, done.arrays))
    assert (old.min(), old.max()) == (2.5, 6)
    assert new.min() >= 0
    assert new.max() <= 2.0
    assert np.ptp(np.append(new, 0)) < np.ptp(np.append(old, 0))


def test_a_saturated_channel_keeps_the_function_three_deviations_below_its_limit():
    """Of other photos: down to the limit less 1.5, as far as the paper's c for other channels."""
    description, arrays, batch = limited_channels([-0.5, 0.5])
    done = absorb_high_biases(description, arrays, batches=[batch])
    first = {key: value.copy() for key, value in arrays.items()}
    lower = {key: value.copy() for key, value in done.arrays.items()}
    for part in (first, lower):
        part["b/kernel"][:, :, 1:] = 0  # the saturated channel alone
    lower["b/bias"] = first["b/bias"] + np.float32(done.absorbed["a"][0])
    inside = np.array([-53.4, -52.5, -52.0, 0.0], np.float32).reshape(1, 1, -1, 1)
    np.testing.assert_allclose(
        *(output_of(description, part, inside, "b") for part in (first, lower)), rtol=1e-5
    )


def widths_of(description, arrays, batch):
    """{node: width of the range of its output, with 0 inside}."""
    widths = {}
    Executor(description, arrays).run(
        batch, lambda node, value: widths.update({node.name: np.ptp(np.append(value, 0))})
    )
    return widths


@pytest.mark.parametrize("name", NETWORKS)
def test_absorption_leaves_every_limit_positive_and_no_range_wider(name):
    folded = fold_batch_norms(*NETWORKS[name]())
    first = equalize(folded.description, folded.arrays)
    arrays = dict(first.arrays)
    for pair in first.pairs:  # every third channel is always above its limit
        if pair.between and f"{pair.between[0]}/limit" in arrays:
            key = f"{pair.first}/bias"
            arrays[key] = arrays[key] + np.where(np.arange(len(arrays[key])) % 3, 0, 1e3).astype(
                "f4"
            )
    photos = scenes(2) if name == "deeplab" else images(first.description, 2)
    done = absorb_high_biases(first.description, arrays, batches=[photos])
    limits = [key for key in arrays if key.endswith("/limit")]
    old, new = (widths_of(first.description, part, photos) for part in (arrays, done.arrays))
    for key in limits:
        assert done.arrays[key].min() > 0, key
        # The same function in front of it, but for float32 of sums of a thousand: 1e-4.
        assert new[key.removesuffix("/limit")] <= old[key.removesuffix("/limit")] * 1.001, key


def test_layer_that_pads_takes_no_part_in_absorption():
    folded = fold_batch_norms(*deeplab())
    first = equalize(folded.description, folded.arrays)
    done = absorb_high_biases(first.description, first.arrays, batches=[scenes(1)])
    assert "block_1_expand: block_1_depthwise pads with zeros" in done.skipped
    assert "block_1_project: 2 layers read it" in done.skipped
    with pytest.raises(ValueError, match="no calibration images"):
        absorb_high_biases(first.description, first.arrays, batches=[])


def test_mean_of_a_clipped_normal_against_samples():
    random = np.random.default_rng(0)
    for mean, deviation, limit in ((0.5, 1.0, math.inf), (2.0, 3.0, 6.0), (-1.0, 0.5, 6.0)):
        samples = np.clip(random.normal(mean, deviation, 2_000_000), 0, limit)
        found = clipped_normal_mean([mean], [deviation], limit=limit)
        assert found.item() == pytest.approx(samples.mean(), abs=3e-3)
    assert clipped_normal_mean([2.0], [0.0], limit=6.0).item() == pytest.approx(2.0)


def test_rounded_kernel_lies_on_its_grid():
    node = Node("c", "conv2d", inputs=("image",), attributes={})
    kernel = np.random.default_rng(0).normal(size=(3, 3, 4, 5)).astype(np.float32)
    kernel[..., 2] = 0
    for per_channel, count in ((True, 5), (False, 1)):
        found = quantize_kernel(node, kernel, per_channel=per_channel)
        scale = np.abs(kernel).max((0, 1, 2)) / 127 if count == 5 else np.abs(kernel).max() / 127
        steps = found / np.where(scale > 0, scale, 1)
        np.testing.assert_allclose(steps, np.rint(steps), atol=1e-3)
        assert (np.abs(found - kernel) <= np.asarray(scale) / 2 + 1e-6).all()
        assert not found[..., 2].any()


def two_layers():
    """image -> a (factor 1) -> ReLU -> b (factor 1), one channel; both kernels are exact."""
    nodes = (
        Node("a", "conv2d", inputs=("image",), attributes={"filters": 1, "kernel_size": 1}),
        Node("act", "relu", inputs=("a",), attributes={"max_value": None}),
        Node("b", "conv2d", inputs=("act",), attributes={"filters": 1, "kernel_size": 1}),
    )
    description = NetworkGraph("image", (4, 4, 1), nodes=nodes, output_name="b")
    arrays = {f"{name}/kernel": np.ones((1, 1, 1, 1), np.float32) for name in "ab"}
    return description, arrays | {f"{name}/bias": np.zeros(1, np.float32) for name in "ab"}


def test_empirical_correction_sees_what_rounded_activations_lose():
    """Half of the values are 1, half 3; the range ends at 2, so the mean falls from 2 to 1.5."""
    image = np.resize(np.array([1, 3], np.float32), (1, 4, 4, 1))
    done = correct_empirically(*two_layers(), batches=[image], ranges={"act": (0.0, 2.0)})
    assert done.corrections["a"] == pytest.approx(0, abs=1e-6)
    assert done.corrections["b"] == pytest.approx(0.5, abs=0.01)
    wide = correct_empirically(*two_layers(), batches=[image], ranges={"act": (0.0, 3.0)})
    assert wide.corrections["b"] == pytest.approx(0, abs=0.01)


def test_biases_are_corrected_on_sixteen_images(monkeypatch):
    """The number of images that the correction gets, and that all of them count."""
    seen = []

    def spy(description, arrays, *, batches, **options):
        seen.append(np.concatenate(batches))
        return correct_empirically(description, arrays, batches=batches, **options)

    monkeypatch.setattr(post_training, "correct_empirically", spy)
    folded = fold_batch_norms(*chain())
    description, arrays = folded.description, folded.arrays
    batches = [images(description, 10, seed=seed) for seed in range(2)]
    quantize_post_training(
        built(description, arrays),
        PostTraining(bias=BiasMethod.EMPIRICAL),
        batches=batches,
        input_range=(-1.0, 127 / 128),
    )
    (found,) = seen
    np.testing.assert_array_equal(found, np.concatenate(batches)[:16])
    image = np.zeros((2, 4, 4, 1), np.float32)
    image[1] = 3
    done = correct_empirically(*two_layers(), batches=[image], ranges={"act": (0.0, 2.0)})
    assert done.corrections["b"] == pytest.approx(0.5, abs=0.01), "one image of the two loses 1"


def test_empirical_correction_gives_every_layer_its_float_mean():
    folded = fold_batch_norms(*deeplab())
    batch = scenes(3)
    done = correct_empirically(
        folded.description, folded.arrays, batches=[batch], ranges={}, per_channel=False
    )
    assert len(done.corrections) == 66
    assert done.skipped == ()
    rounded = dict(done.arrays)
    for node in folded.description.nodes:
        for name in ("kernel", "depthwise_kernel"):
            if (key := f"{node.name}/{name}") in rounded:
                rounded[key] = quantize_kernel(node, rounded[key], per_channel=False)
    means: list[dict] = []
    for arrays in (folded.arrays, rounded):
        means.append({})
        Executor(folded.description, arrays).run(
            batch, lambda node, value: means[-1].update({node.name: np.mean(value, (0, 1, 2))})
        )
    for name in ("Conv1", "block_3_depthwise", "block_8_project", "logits"):
        scale = np.abs(means[0][name]).max()
        np.testing.assert_allclose(means[1][name], means[0][name], atol=1e-3 * scale)


@pytest.mark.parametrize("method", [BiasMethod.EMPIRICAL, BiasMethod.ANALYTIC])
def test_correction_brings_a_per_tensor_network_closer(method):
    """On scenes that the correction did not see."""
    folded = fold_batch_norms(*deeplab())
    fresh = scenes(8)[4:]
    expected = np.asarray(built(folded.description, folded.arrays)(fresh))
    quality = []
    if method is BiasMethod.EMPIRICAL:
        done = correct_empirically(
            folded.description, folded.arrays, batches=[scenes(4)], ranges={}, per_channel=False
        )
    else:
        done = correct_analytically(
            folded.description, folded.arrays, statistics=folded.statistics, per_channel=False
        )
    for arrays in (folded.arrays, done.arrays):
        rounded = dict(arrays)
        for node in folded.description.nodes:
            for name in ("kernel", "depthwise_kernel"):
                if (key := f"{node.name}/{name}") in rounded:
                    rounded[key] = quantize_kernel(node, rounded[key], per_channel=False)
        quality.append(snr_db(expected, np.asarray(built(folded.description, rounded)(fresh))))
    assert quality[1] > quality[0] + 1


@pytest.mark.parametrize("odd", ["threshold", "negative_slope"])
def test_mean_after_a_relu_with_threshold_differs_from_that_of_a_plain_one(odd):
    """Normal (0, 1) after a ReLU has a mean of 0.3989, with a threshold of 1 one of 0.2420."""
    nodes = (
        Node("a", "conv2d", inputs=("image",), attributes={"filters": 1, "kernel_size": 1}),
        Node("r", "relu", inputs=("a",), attributes={odd: 1.0}),
        Node("b", "conv2d", inputs=("r",), attributes={"filters": 1, "kernel_size": 1}),
    )
    arrays = {"kernel": np.ones((1, 1, 1, 1), np.float32), "bias": np.zeros(1, np.float32)}
    arrays = {f"{node}/{key}": value for node in "ab" for key, value in arrays.items()}
    statistics = {"a": (np.zeros(1), np.ones(1))}
    description = NetworkGraph("image", (2, 2, 1), nodes=nodes, output_name="b")
    done = correct_analytically(description, arrays, statistics=statistics)
    assert done.corrections == {}
    assert "b: the mean of its input is unknown" in done.skipped


def noise(count=4, seed=11):
    """Seeded photos for `with_true_batch_norms`, within INPUT_RANGE."""
    return np.random.default_rng(seed).uniform(-1, 0.99, (count, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("absorb", "adaround"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_analytic_correction_works_with_every_other_step(absorb, adaround):
    """Batch norms that tell the truth correct what photos would."""
    fast = AdaRoundOptions(iterations=60, batch_pixels=256)
    photos = noise()
    model = with_true_batch_norms(photos, beta=20.0)
    expected = np.asarray(model(photos)).mean((0, 1, 2))
    plan = PostTraining(per_channel=False, absorb=absorb, adaround=adaround, adaround_options=fast)
    off, biases = {}, {}
    for method in BiasMethod:
        chosen = dataclasses.replace(plan, bias=method)
        done = quantize_post_training(model, chosen, batches=[photos], input_range=INPUT_RANGE)
        found = np.asarray(done.model(photos, training=False)).mean((0, 1, 2))
        off[method] = np.abs(found - expected).max()
        biases[method] = done.arrays["logits/bias"]
    assert off[BiasMethod.ANALYTIC] < 0.75 * off[BiasMethod.NONE]
    empirical, analytic = (
        biases[method] - biases[BiasMethod.NONE]
        for method in (BiasMethod.EMPIRICAL, BiasMethod.ANALYTIC)
    )
    # Normal distributions are not quite what the photos give: 3 % was measured.
    assert np.abs(analytic - empirical).max() < 0.2 * np.abs(empirical).max()


def test_layer_kept_float_may_be_named_as_in_keras():
    """With its activation inside, the layer is two nodes; neither step may touch its weights."""
    fast = AdaRoundOptions(iterations=20, batch_pixels=256)
    keras.utils.set_random_seed(2)
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="stem")(image)
    model = keras.Model(image, keras.layers.Conv2D(4, 1, name="logits")(x))
    plan = PostTraining(
        adaround=True, adaround_options=fast, bias=BiasMethod.EMPIRICAL, keep_float=("stem",)
    )
    done = quantize_post_training(model, plan, batches=[noise()], input_range=INPUT_RANGE)
    kernel = model.get_layer("stem").kernel.numpy()
    np.testing.assert_array_equal(done.arrays["stem_linear/kernel"], kernel)
    assert np.abs(done.arrays["logits/kernel"] - model.get_layer("logits").kernel).max() > 0
    assert "float32: stem" in done.report
    with pytest.raises(ValueError, match="both name stem_linear"):
        quantize_post_training(
            model,
            PostTraining(keep_float=("stem",), int16=("stem_linear",)),
            batches=[noise()],
            input_range=INPUT_RANGE,
        )
    with pytest.raises(ValueError, match="no separate layer 'stm'"):
        quantize_post_training(
            model, PostTraining(keep_float=("stm",)), batches=[noise()], input_range=INPUT_RANGE
        )


def test_layers_that_absorption_skips_are_reported():
    model = with_true_batch_norms(noise(), beta=20.0)
    done = quantize_post_training(
        model, PostTraining(absorb=True), batches=[noise()], input_range=INPUT_RANGE
    )
    assert "high biases of 8 channels in 1 layers absorbed" in done.report
    assert "not absorbed: a: a_relu is not a plain ReLU; equalize first" in done.report
    assert "not absorbed: logits: it is the output" in done.report


def test_cost_of_relu_in_place_of_relu6_is_reported():
    photos = noise()
    model = with_true_batch_norms(photos)
    gamma, *others = model.get_layer("a_norm").get_weights()
    model.get_layer("a_norm").set_weights([4 * gamma, *others])  # 7 % go beyond 6
    plan = PostTraining(equalize=True, relu6=Relu6.RELU)
    done = quantize_post_training(
        model, plan, batches=[photos[:3], photos[3:]], input_range=INPUT_RANGE
    )
    plain = keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            keras.layers.ReLU(name="a_relu")
            if layer.name == "a_relu"
            else type(layer).from_config(layer.get_config())
        ),
    )
    plain.set_weights(model.get_weights())
    expected, found = (np.asarray(network(photos)) for network in (model, plain))
    agreement = (expected.argmax(-1) == found.argmax(-1)).mean()
    assert (
        f"effect of ReLU instead of ReLU6: {snr_db(expected, found):.1f} dB signal-to-noise of the "
        f"float output, arg max equal on {agreement:.2%}, on 4 calibration images" in done.report
    )
    exact = quantize_post_training(
        model, PostTraining(equalize=True), batches=[photos], input_range=INPUT_RANGE
    )
    assert not any("costs" in line for line in exact.report)


@pytest.mark.slow
def test_steps_together_help_and_are_reported():
    model, photos = trained_float_model(), scenes(8)
    expected = np.asarray(model(photos[4:]))
    found = {}
    for name, plan in {
        "naive": PostTraining(per_channel=False),
        "steps": PostTraining(
            per_channel=False,
            equalize=True,
            relu6=Relu6.EXACT,
            absorb=True,
            bias=BiasMethod.EMPIRICAL,
        ),
    }.items():
        done = quantize_post_training(model, plan, batches=[photos[:4]], input_range=INPUT_RANGE)
        found[name] = snr_db(expected, np.asarray(done.model(photos[4:], training=False)))
    assert found["steps"] > found["naive"] + 3
    assert any("66 biases corrected (empirical)" in line for line in done.report)
    assert any("not equalized: block_1_project: 2 layers read it" in line for line in done.report)
    assert np.isfinite(list(done.ranges.values())).all()


@pytest.mark.slow
def test_learned_rounding_survives_to_the_quantized_network(monkeypatch):
    """The last network rounds weights to where they are: nothing that was learned is lost."""
    fast = AdaRoundOptions(iterations=60, batch_pixels=256)
    learned = []

    def learn_once(*arguments, **options):  # the same for both plans
        assert options["options"] is fast
        if not learned:
            learned.append(learn_rounding(*arguments, **options))
        return learned[0]

    monkeypatch.setattr(post_training, "learn_rounding", learn_once)
    model, photos = trained_float_model(), scenes(8)
    expected = np.asarray(model(photos[4:]))
    found = {}
    for name, plan in {
        "nearest": PostTraining(),
        "learned": PostTraining(adaround=True, adaround_options=fast),
        "corrected": PostTraining(adaround=True, adaround_options=fast, bias=BiasMethod.EMPIRICAL),
    }.items():
        done = quantize_post_training(model, plan, batches=[photos[:4]], input_range=INPUT_RANGE)
        found[name] = snr_db(expected, np.asarray(done.model(photos[4:], training=False)))
        if name == "nearest":
            continue
        assert any("rounding of 66 layers learned" in line for line in done.report)
        for node in done.description.nodes:
            if node.kind in ("conv2d", "depthwise_conv2d"):
                kernel = done.arrays[kernel_key(node)]
                np.testing.assert_allclose(quantize_kernel(node, kernel), kernel, atol=1e-5)
    assert found["learned"] > found["nearest"]
    assert found["corrected"] > found["nearest"]


def test_no_images_are_rejected():
    with pytest.raises(ValueError, match="no calibration images"):
        quantize_post_training(
            trained_float_model(), PostTraining(), batches=[], input_range=INPUT_RANGE
        )


def test_values_clipped_by_a_limit_need_no_levels():
    done = quantize_post_training(
        trained_float_model(),
        PostTraining(equalize=True),
        batches=[scenes(4)],
        input_range=INPUT_RANGE,
    )
    limits = [node for node in done.description.nodes if node.kind == "channel_limit"]
    assert len(limits) > 10
    for node in limits:
        assert done.ranges[node.inputs[0]] == done.ranges[node.name]
    wide = quantize_post_training(
        trained_float_model(), PostTraining(), batches=[scenes(4)], input_range=INPUT_RANGE
    )
    others = scenes(8)[4:]
    wanted = np.asarray(trained_float_model()(others))
    equalized, plain = (snr_db(wanted, np.asarray(d.model(others))) for d in (done, wide))
    # Measured 22.1 and 24.9 dB; with ranges up to what the ReLU gives, beyond every limit, 18.8.
    assert equalized > plain - 4

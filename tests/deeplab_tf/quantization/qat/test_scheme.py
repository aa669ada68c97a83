"""The quantization-aware scheme: what gets a range, per-channel weights, parity with the file."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.layers import IntegerReLU
from deeplab_tf.quantization.qat import apply, ranges, scheme
from deeplab_tf.quantization.qat.quantizers import DepthwiseWeightQuantizer
from deeplab_tf.training.stepper import freeze_batch_norms, learning_variables
from deeplab_tf.weights.matching import named_arrays
from tests.zoo import scenes, trained_float_model, trained_quantized_model

INPUT_RANGE = (-1.0, 127 / 128)


def test_plan_puts_one_range_where_the_integer_file_has_one():
    plans = scheme.plan_layers(trained_float_model())
    without = {name for name, plan in plans.items() if not plan.output}
    assert {"Conv1", "bn_Conv1", "block_1_depthwise", "block_1_depthwise_BN"} <= without
    # The four branches, the resize after one of them, and the inputs of the decoder's concat.
    assert {"aspp_1x1_relu", "aspp_rate6_pointwise_relu", "aspp_pooling_relu"} <= without
    assert {"aspp_pooling_resize", "aspp_project_relu", "decoder_upsample"} <= without
    assert "decoder_low_level_relu" in without
    with_range = set(plans) - without
    assert {"Conv1_relu", "block_1_project_BN", "block_2_add", "aspp_concat"} <= with_range
    assert {"aspp_pooling", "decoder_concat", "logits"} <= with_range
    assert sum(plan.weights for plan in plans.values()) == 44 + 22  # convolutions, depthwise


RELUS = {
    "none": ({}, True),
    "6": ({"max_value": 6.0}, True),
    "1": ({"max_value": 1.0}, False),
    "4": ({"max_value": 4.0}, False),
    "slope": ({"negative_slope": 0.2}, False),
    "slope, 6": ({"negative_slope": 0.2, "max_value": 6.0}, False),
    "slope, 4": ({"negative_slope": 0.2, "max_value": 4.0}, False),
    "threshold": ({"threshold": 0.5}, False),
    "threshold, 6": ({"threshold": 0.5, "max_value": 6.0}, False),
}
"""Arguments of a ReLU, and whether TFLite fuses it into the operator before: RELU and RELU6."""


def with_relu(**arguments):
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(32, 3, use_bias=False, name="c")(image)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.ReLU(**arguments, name="active")(x)
    return keras.Model(image, keras.layers.Conv2D(5, 1, name="logits")(x))


@pytest.mark.parametrize("kind", RELUS)
def test_only_a_relu_that_fuses_shares_its_range_with_the_layer_before(kind):
    arguments, fuses = RELUS[kind]
    plans = scheme.plan_layers(with_relu(**arguments))
    assert not plans["c"].output
    assert plans["norm"].output == (not fuses)
    assert plans["active"].output


@pytest.mark.parametrize("kind", RELUS)
def test_integer_form_equals_keras(kind):
    layer = keras.layers.ReLU(**RELUS[kind][0], name="active")
    copy = scheme.integer_form(layer)
    assert copy.name == "active"
    assert (type(copy) is keras.layers.ReLU) == RELUS[kind][1]
    again = type(copy).from_config(copy.get_config())
    values = np.append(np.linspace(-8, 8, 4097), [0.5, 1.0, 4.0, 6.0]).astype(np.float32)
    for made in (copy, again):
        # The same products and comparisons of the same float32 numbers, one rounding apart.
        np.testing.assert_allclose(made(values), layer(values), rtol=1e-6, atol=0)


def test_a_relu_without_an_integer_form_is_refused_before_training(caplog):
    model = with_relu(threshold=0.5, negative_slope=0.1)
    assert scheme.unknown_layers(model) == {"active": "ReLU with a slope and a threshold"}
    with pytest.raises(ValueError, match=r"'active' .ReLU with a slope and a threshold. cannot be"):
        scheme.check_trainable(model)
    assert not scheme.plan_layers(model)["active"].output
    apply.quantize_aware(model, INPUT_RANGE)
    assert "is not quantized" in caplog.text
    with pytest.raises(ValueError, match="have no integer form"):
        IntegerReLU(threshold=0.5, negative_slope=0.1)


def test_depthwise_ranges_are_per_channel_and_rounding_is_exact():
    rng = np.random.default_rng(0)
    spread = 10.0 ** rng.uniform(-2, 0, 12)  # a hundredfold spread between channels
    kernel = (rng.uniform(-1, 1, (3, 3, 6, 2)) * spread.reshape(6, 2)).astype(np.float32)
    quantizer = DepthwiseWeightQuantizer()
    layer = keras.layers.Layer()
    variables = quantizer.build(tf.TensorShape(kernel.shape), "depthwise_kernel", layer)
    assert variables["min_var"].shape == (12,)
    quantized = quantizer(tf.constant(kernel), True, variables).numpy()
    scale = np.abs(kernel).max(axis=(0, 1)) / 127
    expected = np.rint(kernel / scale).clip(-127, 127) * scale
    np.testing.assert_allclose(quantized, expected, rtol=1e-4, atol=1e-6)
    per_tensor = np.abs(kernel).max() / 127
    assert np.abs(quantized - kernel).max(axis=(0, 1)).min() < per_tensor / 20


def test_input_is_fixed_to_camera_bytes():
    model = trained_quantized_model()
    layer = model.get_layer("quantize_image")
    pixels = np.arange(256, dtype=np.float32).reshape(1, 16, 16, 1).repeat(3, -1)
    normalized = tf.constant((pixels - 128) / 128)
    # Every 8-bit pixel is a quantized value already: nothing is rounded.
    np.testing.assert_array_equal(layer(normalized, training=True), normalized)
    assert float(tf.reduce_max(layer(tf.constant([[[[5.0, 5, 5]]]])))) == 127 / 128


def test_ranges_come_from_calibration_and_weights_never_from_six():
    model = trained_quantized_model()
    wrappers = apply.wrapped_layers(model)
    found = {
        f"{name}/{apply.short_name(variable)}": variable.numpy()
        for name, wrapper in wrappers.items()
        for variable in wrapper.weights
        if apply.is_quantizer_variable(apply.short_name(variable))
    }
    for name, value in found.items():
        if name.endswith("_min"):
            assert np.all(value != -6.0), name
            assert np.all(value <= 0), name
    floats = apply.float_weights(model)
    largest = np.abs(floats["block_3_depthwise/depthwise_kernel"]).max(axis=(0, 1)).ravel()
    np.testing.assert_allclose(found["block_3_depthwise/depthwise_kernel_max"], largest)
    assert found["Conv1_relu/output_max"] <= 6.0


def test_ranges_at_the_switch_are_averaged_over_all_batches():
    """A network that gives back its image: batches of -1..2, -3..4 and 1..3."""
    image = keras.Input((2, 2, 1))
    model = keras.Model(image, keras.layers.Activation("linear", name="same")(image))

    def batch(low, high):
        return np.array([low, high, 1, 1], np.float32).reshape(1, 2, 2, 1)

    found = ranges.observe_ranges(
        model, ["same"], batches=[batch(-1, 2), batch(-3, 4), batch(1, 3)]
    )
    assert found == {"same": (-1.0, 3.0)}


def test_float_weights_move_in_and_out_unchanged():
    arrays = named_arrays(trained_float_model())
    found = apply.float_weights(trained_quantized_model())
    assert sorted(found) == sorted(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_missing_float_weight_is_named():
    arrays = named_arrays(trained_float_model())
    del arrays["logits/bias"]
    with pytest.raises(ValueError, match="weight logits/bias: expected shape"):
        apply.load_float_weights(trained_quantized_model(), arrays)


def test_training_moves_weights_and_keeps_frozen_statistics():
    model = apply.quantize_aware(trained_float_model(), INPUT_RANGE)
    ranges.fill_ranges(
        model,
        trained_float_model(),
        arrays=named_arrays(trained_float_model()),
        batches=[scenes(2)],
    )
    freeze_batch_norms(model)
    before = apply.float_weights(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(scenes(2), training=True) ** 2)
    variables = learning_variables(model)
    gradients = tape.gradient(loss, variables)
    keras.optimizers.SGD(0.01).apply_gradients(zip(gradients, variables, strict=True))
    after = apply.float_weights(model)
    assert np.any(
        after["block_5_depthwise/depthwise_kernel"] != before["block_5_depthwise/depthwise_kernel"]
    )
    for name in before:
        if name.endswith(("moving_mean", "moving_variance", "gamma", "beta")):
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)


def test_calibration_without_images_is_refused():
    with pytest.raises(ValueError, match="no calibration images"):
        ranges.observe_ranges(trained_float_model(), ["logits"], batches=[])

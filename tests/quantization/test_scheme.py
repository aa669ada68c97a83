"""The quantization-aware scheme: what gets a range, per-channel weights, parity with the file."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.quantization import apply, ranges, scheme
from deeplab_tf.quantization.quantizers import DepthwiseWeightQuantizer
from deeplab_tf.training.initialization import named_arrays
from deeplab_tf.training.stepper import freeze_batch_norms, learning_variables
from tests.zoo import scenes, trained_float_model, trained_quantized_model

INPUT_RANGE = (-1.0, 127 / 128)


def test_plan_puts_one_range_where_the_integer_file_has_one():
    plans = scheme.plan_layers(trained_float_model())
    without = {name for name, plan in plans.items() if not plan.output}
    assert {"Conv1", "bn_Conv1", "block_1_depthwise", "block_1_depthwise_BN"} <= without
    # The four branches, the resize behind one of them, and what the decoder joins.
    assert {"aspp_1x1_relu", "aspp_rate6_pointwise_relu", "aspp_pooling_relu"} <= without
    assert {"aspp_pooling_resize", "aspp_project_relu", "decoder_upsample"} <= without
    assert "decoder_low_level_relu" in without
    with_range = set(plans) - without
    assert {"Conv1_relu", "block_1_project_BN", "block_2_add", "aspp_concat"} <= with_range
    assert {"aspp_pooling", "decoder_concat", "logits"} <= with_range
    assert sum(plan.weights for plan in plans.values()) == 44 + 22  # convolutions, depthwise


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


def test_float_weights_move_in_and_out_unchanged():
    arrays = named_arrays(trained_float_model())
    found = apply.float_weights(trained_quantized_model())
    assert sorted(found) == sorted(arrays)
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_missing_float_weight_is_named():
    arrays = named_arrays(trained_float_model())
    del arrays["logits/bias"]
    with pytest.raises(ValueError, match="weight logits/bias needs shape"):
        apply.load_float_weights(trained_quantized_model(), arrays)


def test_training_moves_weights_and_keeps_frozen_statistics():
    model = apply.quantize_aware(trained_float_model(), INPUT_RANGE)
    ranges.fill_ranges(
        model, trained_float_model(), named_arrays(trained_float_model()), [scenes(2)]
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
        ranges.observe_ranges(trained_float_model(), ["logits"], [])

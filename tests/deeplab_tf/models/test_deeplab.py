"""Parameter counts and shapes against numbers worked out from the papers."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm
from deeplab_tf.models.backbones.mobilenet_v2 import build_mobilenet_v2, scaled_channels
from deeplab_tf.models.config import Aspp, DeepLabConfig, ModelConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.weights import matching as initialization


def backbone(width, stride, size=(64, 96)):
    image = keras.Input((*size, 3))
    features = build_mobilenet_v2(image, BackboneForm(stride, width_multiplier=width))
    return keras.Model(image, [features[stride], features[4]])


@pytest.mark.parametrize(
    ("width", "published", "last_channels", "head_channels"),
    [
        # Keras Applications' documented counts without top; they end in a 1x1 convolution to
        # 1280 (1792 for 1.4) channels with batch norm, which segmentation leaves out.
        (1.0, 2_257_984, 320, 1280),
        (0.35, 410_208, 112, 1280),
        (1.4, 4_363_712, 448, 1792),
    ],
)
def test_backbone_has_the_published_number_of_parameters(
    width, published, last_channels, head_channels
):
    head = last_channels * head_channels + 4 * head_channels
    assert backbone(width, 16).count_params() == published - head


@pytest.mark.parametrize(("stride", "expected"), [(8, (8, 12)), (16, (4, 6)), (32, (2, 3))])
def test_output_stride_decides_the_size_of_the_features(stride, expected):
    features, low_level = backbone(1.0, stride).output
    assert tuple(features.shape[1:]) == (*expected, 320)
    assert tuple(low_level.shape[1:]) == (16, 24, 24)


def test_atrous_features_equal_strided_ones_where_both_exist():
    # A stride-2 "same" convolution over an even size is the stride-1 one read at 1, 3, 5, ...
    # Rates continue this through the blocks behind, so away from the zero padding at the border
    # stride 16 must hold the features of stride 32 at every other place.
    size = (512, 512)
    strided, atrous = backbone(0.35, 32, size), backbone(0.35, 16, size)
    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.2, w.shape).astype(np.float32) for w in strided.get_weights()]
    for index, variable in enumerate(strided.weights):
        if "variance" in variable.name or "gamma" in variable.name:
            weights[index] = np.abs(weights[index]) + 0.5
    strided.set_weights(weights)
    atrous.set_weights(weights)
    image = rng.uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    few, many = strided(image)[0].numpy(), atrous(image)[0].numpy()[:, 1::2, 1::2]
    inner = (slice(None), slice(6, -6), slice(6, -6))
    assert np.abs(few[inner]).max() > 0.1
    np.testing.assert_allclose(few[inner], many[inner], rtol=1e-3, atol=1e-3)


def test_width_rounds_to_eights_but_never_below_ninety_percent():
    assert scaled_channels(32, 0.35) == 16  # 11.2 -> 8 would be 71%
    assert scaled_channels(24, 0.75) == 24  # 18 -> 16 would be 89%
    assert scaled_channels(96, 1.4) == 136  # 134.4


def test_pyramid_and_decoder_have_the_parameters_of_the_paper():
    config = DeepLabConfig(num_classes=11)
    norm = 4  # gamma, beta, mean, variance of each channel
    branch_1x1 = 320 * 256 + norm * 256
    atrous = 9 * 320 + norm * 320 + 320 * 256 + norm * 256
    project = 5 * 256 * 256 + norm * 256
    aspp = 2 * branch_1x1 + 3 * atrous + project
    low_level = 24 * 48 + norm * 48
    first = 9 * 304 + norm * 304 + 304 * 128 + norm * 128
    second = 9 * 128 + norm * 128 + 128 * 128 + norm * 128
    logits = 128 * 11 + 11
    expected = 1_843_264 + aspp + low_level + first + second + logits
    assert build_network(config, (64, 64)).count_params() == expected


@pytest.mark.parametrize(
    ("changes", "size", "expected"),
    [
        ({}, (64, 96), (16, 24)),
        ({}, (65, 97), (17, 25)),  # one more than a multiple, as in 513
        ({"decoder": False}, (64, 96), (4, 6)),
        ({"aspp": Aspp.SLIM, "decoder": False, "output_stride": 8}, (64, 96), (8, 12)),
        ({"aspp": Aspp.NONE, "output_stride": 32}, (64, 96), (16, 24)),
    ],
)
def test_logits_shape_and_one_flat_graph_of_stock_layers(changes, size, expected):
    config = DeepLabConfig(num_classes=7, channels=5, width_multiplier=0.35, **changes)
    model = build_network(config, size)
    assert model.output_shape == (None, *expected, 7)
    assert model.input_shape == (None, *size, 5)
    for layer in model.layers:
        assert type(layer).__module__.startswith("tf_keras.src"), layer.name
        assert not isinstance(layer, keras.Model)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_classes": 0}, "num_classes must be 1 to 255"),
        ({"num_classes": 256}, "num_classes must be 1 to 255"),
        ({"num_classes": 2, "output_stride": 4}, "output_stride must be one of"),
        ({"num_classes": 2, "width_multiplier": 3.0}, "width_multiplier must be 0.25 to 1.4"),
        ({"num_classes": 2, "atrous_rates": ()}, "use aspp=slim"),
        ({"num_classes": 2, "channels": 0}, "channels must be 1 to 16384; got 0"),
    ],
)
def test_wrong_configurations_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        DeepLabConfig(**values)


def test_a_size_that_does_not_fit_names_the_next_one_that_does():
    config = DeepLabConfig(num_classes=2)
    with pytest.raises(ValueError, match=r"height 360 is not a multiple.*pad to 368"):
        build_network(config, (360, 480))
    assert config.padded_size(360, 480) == (368, 480)
    assert config.padded_size(513, 513) == (513, 513)


def test_configuration_survives_json_and_unknown_keys_do_not():
    config = DeepLabConfig(num_classes=3, aspp=Aspp.SLIM, atrous_rates=(2, 4))
    assert ModelConfig.from_json(config.to_json()) == config
    with pytest.raises(ValueError, match="unknown model keys \\['depth'\\]"):
        ModelConfig.from_json({"num_classes": 3, "depth": 1})


def test_unknown_network_is_named():
    with pytest.raises(ValueError, match="unknown network 'resnet'"):
        ModelConfig.from_json({"num_classes": 2, "network": "resnet"})


def test_real_imagenet_weights_give_the_features_of_keras_applications(shared_dir):
    path = shared_dir / "models" / "mobilenet_v2_0.35_224_notop.weights.h5"
    model = backbone(0.35, 32, (96, 96))
    report = initialization.load_h5(model, path)
    assert not report.missing
    assert not report.mismatched
    reference = keras.applications.MobileNetV2(
        (96, 96, 3), alpha=0.35, include_top=False, weights=None
    )
    reference.load_weights(path)
    taps = keras.Model(reference.input, reference.get_layer("block_16_project_BN").output)
    image = tf.constant(np.random.default_rng(1).uniform(-1, 1, (2, 96, 96, 3)), tf.float32)
    # Same operations in the same order: only the last bits of sums may differ.
    np.testing.assert_allclose(model(image)[0], taps(image), rtol=1e-4, atol=1e-4)

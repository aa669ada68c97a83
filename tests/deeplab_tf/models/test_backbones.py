"""Every backbone: published sizes, strides, atrous rates, and Keras Applications' own graph."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.models.backbones.form import BackboneForm, StrideWalk
from deeplab_tf.models.backbones.registry import BACKBONES, build_backbone
from deeplab_tf.weights import matching as initialization
from deeplab_tf.weights.keras_applications import APPLICATIONS

STRIDES = {name: (16 if name == "unet_encoder" else 32) for name in BACKBONES}


def features_of(name, form, size=(64, 96), channels=3):
    image = keras.Input((*size, channels))
    features = build_backbone(name, image, form=form)
    return keras.Model(image, features)


def learned(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


@pytest.mark.parametrize(
    ("name", "published", "classifier"),
    [
        # torchvision's documented counts, less the classifiers that segmentation leaves out.
        ("resnet18", 11_689_512, 512 * 1000 + 1000),
        ("resnet50", 25_557_032, 2048 * 1000 + 1000),
        ("resnet101", 44_549_160, 2048 * 1000 + 1000),
        # Keras Applications' documented totals, less moving statistics (2 a channel of every batch
        # norm) and the biases in front of them: 26,560 channels each in ResNet-50, 52,672 in -101.
        ("resnet50_v1", 25_636_712 - 3 * 26_560, 2048 * 1000 + 1000),
        ("resnet101_v1", 44_707_176 - 3 * 52_672, 2048 * 1000 + 1000),
        (
            "vgg11_bn",
            132_868_840,
            512 * 7 * 7 * 4096 + 4096 + 4096 * 4096 + 4096 + 4096 * 1000 + 1000,
        ),
        # Keras Applications' large minimalistic with top has 3,948,688, of which 24,400 are moving
        # statistics; its classifier is 960 -> 1280 -> 1000 (Howard et al. 2019, table 1).
        ("mobilenet_v3_large", 3_948_688 - 24_400, 960 * 1280 + 1280 + 1280 * 1000 + 1000),
    ],
)
def test_published_number_of_parameters(name, published, classifier):
    assert learned(features_of(name, BackboneForm(32))) == published - classifier


@pytest.mark.parametrize("name", sorted(BACKBONES))
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_strides_and_channels(name, output_stride):
    if output_stride > STRIDES[name]:
        with pytest.raises(ValueError, match="unet_encoder ends at stride 16"):
            features_of(name, BackboneForm(output_stride))
        return
    model = features_of(name, BackboneForm(output_stride), channels=5)
    shapes = {stride: tuple(tensor.shape) for stride, tensor in model.output.items()}
    assert max(shapes) == output_stride
    assert set(shapes) <= {1, 2, 4, 8, 16, 32}
    assert {4, 8} <= set(shapes)
    for stride, shape in shapes.items():
        assert shape[1:3] == (64 // stride, 96 // stride)
    for layer in model.layers:
        assert type(layer).__module__.startswith("tf_keras.src"), layer.name


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_rows_kept_for_range_images(name):
    model = features_of(name, BackboneForm(16, keep_rows=True), channels=5)
    for stride, tensor in model.output.items():
        rows = stride // 2 if stride > 1 else 1
        assert tuple(tensor.shape[1:3]) == (64 // rows, 96 // stride)


def test_strides_become_rates_past_the_output_stride():
    walk = StrideWalk(BackboneForm(8))
    found = [walk.step(stride) for stride in (2, 2, 1, 2, 1, 2, 1, 2, 1)]
    assert [step.strides[1] for step in found] == [2, 2, 1, 2, 1, 1, 1, 1, 1]
    assert [step.rate for step in found] == [1, 1, 1, 1, 1, 1, 2, 2, 4]


def test_atrous_resnet_equals_the_strided_one_where_both_exist():
    # Away from the border, stride 16 holds the features of stride 32 at every other place: with
    # padding on both sides a stride-2 convolution reads the even places.
    size = (384, 384)
    models = [features_of("resnet18", BackboneForm(stride), size) for stride in (32, 16)]
    randomize(models[0])
    models[1].set_weights(models[0].get_weights())
    image = np.random.default_rng(1).uniform(-1, 1, (1, *size, 3)).astype(np.float32)
    few, many = models[0](image)[32].numpy(), models[1](image)[16].numpy()[:, ::2, ::2]
    inner = (slice(None), slice(4, -4), slice(4, -4))
    assert np.abs(few[inner]).max() > 0.1
    np.testing.assert_allclose(few[inner], many[inner], rtol=1e-3, atol=1e-3)


def randomize(model, seed=0):
    """Weights of the size that training gives, with batch norms that are no identity."""
    rng = np.random.default_rng(seed)
    for layer in model.layers:
        values = []
        for variable in layer.weights:
            fan_in = max(1, int(np.prod(variable.shape[:-1])))
            value = rng.normal(0, np.sqrt(2 / fan_in), variable.shape)
            if "variance" in variable.name or "gamma" in variable.name:
                value = rng.uniform(0.5, 1.5, variable.shape)
            elif len(variable.shape) == 1:
                value = rng.normal(0, 0.1, variable.shape)
            values.append(value.astype(np.float32))
        layer.set_weights(values)


def assert_all_loaded(model, arrays):
    report = initialization.load_named(model, arrays)
    assert not (report.missing or report.mismatched or report.unused), report


def test_keras_applications_mobilenet_v3_loads_by_name_and_computes_the_same():
    application = APPLICATIONS["mobilenet_v3_large"]
    source = application.model(1.0, weights=None)
    randomize(source)
    # Small pixels and scales: ReLU6 and the source's ReLU are one function below 6.
    for layer in source.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([gamma * 0.5, beta, mean, variance])
    model = features_of("mobilenet_v3_large", BackboneForm(32), (224, 224))
    arrays = application.convert(initialization.named_arrays(source), "mobilenet_v3_large")
    assert_all_loaded(model, arrays)
    image = np.random.default_rng(2).uniform(-0.02, 0.02, (2, 224, 224, 3)).astype(np.float32)
    wanted = source(image).numpy()
    inside = keras.Model(
        source.input,
        [layer.output for layer in source.layers if isinstance(layer, keras.layers.ReLU)],
    )
    assert max(float(tf.reduce_max(tensor)) for tensor in inside(image)) < 6
    np.testing.assert_allclose(model(image)[32].numpy(), wanted, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def keras_resnet50():
    source = APPLICATIONS["resnet50_v1"].model(1.0, weights=None)
    randomize(source)
    return source


def test_keras_applications_resnet_computes_the_same(keras_resnet50):
    """On the pixels that it takes itself; what the fold changes is the next test's."""
    renamed = APPLICATIONS["resnet50_v1"].rename(initialization.named_arrays(keras_resnet50))
    model = features_of("resnet50_v1", BackboneForm(32), (224, 224))
    assert_all_loaded(model, renamed)
    photo = np.random.default_rng(2).integers(0, 256, (1, 224, 224, 3)).astype(np.float32)
    given = keras.applications.resnet.preprocess_input(photo.copy())
    wanted = keras_resnet50(given).numpy()
    found = model(given[..., ::-1])[32].numpy()
    assert np.abs(wanted).max() > 0.1
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())
    # As many layers at stride 16; a dilated 3x3 stands where the stride was.
    atrous = features_of("resnet50_v1", BackboneForm(16), (224, 224))
    rates = {name: atrous.get_layer(f"layer4_{name}_conv2").dilation_rate for name in range(3)}
    assert rates == {0: (2, 2), 1: (2, 2), 2: (2, 2)}
    assert_all_loaded(atrous, renamed)


def test_keras_applications_resnet_takes_this_project_s_pixels(keras_resnet50):
    application = APPLICATIONS["resnet50_v1"]
    arrays = application.convert(initialization.named_arrays(keras_resnet50), "resnet50_v1")
    model = features_of("resnet50_v1", BackboneForm(32), (224, 224))
    assert_all_loaded(model, arrays)
    photo = np.random.default_rng(3).integers(0, 256, (1, 224, 224, 3)).astype(np.float32)
    first = keras.Model(keras_resnet50.input, keras_resnet50.get_layer("conv1_relu").output)
    wanted = first(keras.applications.resnet.preprocess_input(photo.copy())).numpy()
    found = model((photo - 128) / 128)[2].numpy()
    # The border is padded with another colour.
    inner = (slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(found[inner], wanted[inner], atol=1e-4 * np.abs(wanted).max())


def test_unknown_backbone_and_width():
    with pytest.raises(ValueError, match=r"unknown backbone 'resnet34'; known: mobilenet_v2, "):
        features_of("resnet34", BackboneForm(16))
    with pytest.raises(ValueError, match=r"resnet18 has one width; got width_multiplier 0\.5"):
        features_of("resnet18", BackboneForm(16, width_multiplier=0.5))

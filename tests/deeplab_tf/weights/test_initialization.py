"""Weights from elsewhere: what matches, what does not, and that every miss is named."""

import dataclasses
import json
import logging

import numpy as np
import pytest

from deeplab_tf.data.labels import LabelSet
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.batch_norm import adopt_statistics
from deeplab_tf.models.config import Aspp, DeepLabConfig
from deeplab_tf.models.registry import build_network
from deeplab_tf.runs.config import TrainingConfig, read_config
from deeplab_tf.runs.folder import RunFolder
from deeplab_tf.training.start import initializer
from deeplab_tf.weights import matching as initialization
from deeplab_tf.weights.keras_applications import APPLICATIONS, Application
from deeplab_tf.weights.npz import read_weights, save_weights
from export.conversion import freeze
from export.conversion.convert import Conversion, convert
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.to_keras.convolution_weights import read_convolutions

SMALL = DeepLabConfig(num_classes=3, width_multiplier=0.35, aspp=Aspp.SLIM, aspp_channels=16)


def test_weights_file_round_trip_and_report_of_what_differs(tmp_path):
    model = build_network(SMALL, (32, 32))
    save_weights(initialization.named_arrays(model), tmp_path / "w.npz")
    arrays = read_weights(tmp_path / "w.npz")
    other = build_network(DeepLabConfig(**{**vars(SMALL), "num_classes": 5}), (32, 32))
    arrays["extra/kernel"] = np.zeros(3, np.float32)
    report = initialization.load_named(other, arrays)
    assert [line.split(":")[0] for line in report.mismatched] == ["logits"]
    assert report.unused == ("extra",)
    assert not report.missing
    np.testing.assert_array_equal(
        other.get_layer("Conv1").get_weights()[0], model.get_layer("Conv1").get_weights()[0]
    )


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="no layer of the network matches"):
        initialization.load_named(build_network(SMALL, (32, 32)), {"other/kernel": np.zeros(2)})


def imagenet_config(backbone, **changes):
    values = {"num_classes": 3, "aspp": Aspp.SLIM, "aspp_channels": 16, "backbone": backbone}
    model = DeepLabConfig(**(values | changes))
    return TrainingConfig.from_settings(
        dataset="synthetic",
        data_dir="",
        model=model,
        preprocessing=Preprocessing.of(model.channels),
        backbone_weights="imagenet",
    )


def test_imagenet_weights_of_keras_applications_are_put_in_place(monkeypatch):
    """Without the download: the same network with the weights it was drawn with."""
    application, drawn = APPLICATIONS["mobilenet_v2"], {}

    def without_download(self, width_multiplier):
        drawn["source"] = application.build(
            input_shape=(224, 224, 3), include_top=False, weights=None, alpha=width_multiplier
        )
        return drawn["source"]

    monkeypatch.setattr(Application, "model", without_download)
    config = imagenet_config("mobilenet_v2", width_multiplier=0.35)
    model = build_network(config.model, (32, 32))
    initializer(config)(model, [])
    source = drawn["source"].get_layer("block_5_expand").get_weights()[0]
    np.testing.assert_array_equal(model.get_layer("block_5_expand").get_weights()[0], source)


def test_imagenet_weights_that_do_not_exist_or_do_not_come(monkeypatch):
    with pytest.raises(ValueError, match=r"no weights of Keras Applications fit deeplab over res"):
        initializer(imagenet_config("resnet50"))
    with pytest.raises(ValueError, match="take 3 channels, these images have 5"):
        initializer(imagenet_config("resnet50_v1", channels=5))

    def no_connection(self, width_multiplier):
        raise Exception("URL fetch failure")

    monkeypatch.setattr(Application, "model", no_connection)
    with pytest.raises(RuntimeError, match=r"cannot load Keras .* \(URL fetch failure\); check"):
        initializer(imagenet_config("resnet50_v1"))(None, [])


def test_nan_weights_are_refused(tmp_path):
    np.savez(tmp_path / "bad.npz", **{"Conv1/kernel": np.array([np.nan])})
    with pytest.raises(ValueError, match="Conv1/kernel contains NaN"):
        read_weights(tmp_path / "bad.npz")


def test_a_file_that_is_no_weights_file_is_refused(tmp_path):
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="not a weights file"):
        read_weights(tmp_path / "bad.npz")


def test_folded_imagenet_backbone_keeps_its_function_with_observed_statistics(shared_dir):
    graph = read_graph(shared_dir / "models" / "tf2_mobilenet_v2_1.0_224_ptq.tflite")
    config = DeepLabConfig(num_classes=2, aspp=Aspp.NONE, decoder=False)
    model = build_network(config, (64, 64))
    report = initialization.load_convolutions(model, read_convolutions(graph))
    assert len(report.matched) == 51  # 1 + 16 x 3 + 2 (the first block has no expansion)
    assert report.missing == ("logits",)
    rng = np.random.default_rng(0)
    images = [rng.uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32) for _ in range(2)]
    before = model(images[0]).numpy()
    adopt_statistics(model, images)
    after = model(images[0]).numpy()
    assert np.abs(after - before).max() < 1e-4 * np.abs(before).max()
    # With observed statistics, training mode sees nearly what inference mode sees.
    trained = model(np.concatenate(images), training=True).numpy()[:4]
    assert np.abs(trained - after).max() < 0.1 * np.abs(after).max()


@pytest.fixture(scope="module")
def residual(tmp_path_factory):
    """A network over ResNet-18 with random weights, and its float file's convolutions."""
    folder = tmp_path_factory.mktemp("residual")
    config = DeepLabConfig(3, backbone="resnet18", aspp=Aspp.NONE, decoder=False)
    model = build_network(config, (64, 64))
    freeze.write_saved_model(freeze.freeze_model(model, Head.LOGITS_LOW), folder / "saved")
    spec = FileSpec(
        Variant.FLOAT32, Head.LOGITS_LOW, input_dtype=IoDtype.FLOAT32, output_dtype=IoDtype.FLOAT32
    )
    content = convert(
        Conversion(folder / "saved", spec, calibration_file=None, preprocessing=Preprocessing())
    )
    (folder / "float32.tflite").write_bytes(content)
    return config, model, folder / "float32.tflite"


def test_residual_blocks_are_matched_through_the_graph(residual):
    config, model, path = residual
    other = build_network(config, (64, 64))
    report = initialization.load_convolutions(other, read_convolutions(read_graph(path)))
    assert (report.missing, report.unused) == ((), ())
    image = np.random.default_rng(0).uniform(-1, 1, (1, 64, 64, 3)).astype(np.float32)
    wanted = model(image).numpy()
    np.testing.assert_allclose(other(image), wanted, atol=1e-4 * np.abs(wanted).max())


def test_a_file_without_the_whole_backbone_is_refused(residual):
    config, _, path = residual
    wanted = TrainingConfig.from_settings(
        model=dataclasses.replace(config, backbone="resnet50"),
        dataset="synthetic",
        crop_height=64,
        crop_width=64,
        backbone_weights=str(path),
    )
    load = initializer(wanted, lambda path: read_convolutions(read_graph(path)))
    with pytest.raises(ValueError, match="convolutions of the backbone resnet50"):
        load(build_network(wanted.model, (64, 64)), [])


def backbone_run(path, **model):
    config = DeepLabConfig(num_classes=3, decoder=False, **model)
    return TrainingConfig.from_settings(
        model=config, dataset="synthetic", crop_height=64, crop_width=64, backbone_weights=str(path)
    )


def test_a_classifier_whose_shape_the_head_has_is_not_loaded_into_the_head(shared_dir, caplog):
    """The file's Conv_1, 112 -> 1280 channels and numbered after the backbone's last convolution,
    and a head whose first convolution has this very shape: all shapes agree."""
    path = shared_dir / "models" / "mobilenet_v2_0.35_224_notop.weights.h5"
    config = backbone_run(path, width_multiplier=0.35, aspp=Aspp.SLIM, aspp_channels=1280)
    model = build_network(config.model, (64, 64))
    stored = initialization.read_h5(path)
    head = [layer for layer in model.layers if layer.name.startswith("aspp") and layer.weights]
    alike = [layer for layer in head if layer.weights[0].shape == stored["conv2d_34/0"].shape]
    assert alike, "the trap is not set"
    before = [layer.get_weights() for layer in head]
    with caplog.at_level(logging.INFO, "absl"):
        initializer(config)(model, [])
    for layer, weights in zip(head, before, strict=True):
        for value, kept in zip(layer.get_weights(), weights, strict=True):
            np.testing.assert_array_equal(value, kept)
    np.testing.assert_array_equal(
        model.get_layer("block_16_project").get_weights()[0], stored["conv2d_33/0"]
    )
    assert "unused: batch_normalization_51, conv2d_34" in caplog.text


def test_a_folded_classifier_is_not_loaded_into_the_head(shared_dir):
    path = shared_dir / "models" / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    config = backbone_run(path, aspp=Aspp.SLIM, aspp_channels=1280)
    model = build_network(config.model, (64, 64))
    (alike,) = (
        layer
        for layer in model.layers
        if layer.name.startswith("aspp")
        and layer.weights
        and tuple(layer.weights[0].shape) == (1, 1, 320, 1280)
        and "pool" not in layer.name
    )
    before = alike.get_weights()[0]
    batches = [np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)]
    initializer(config, lambda path: read_convolutions(read_graph(path)))(model, batches)
    np.testing.assert_array_equal(alike.get_weights()[0], before)


def test_numbered_layers_fit_as_a_whole_or_not_at_all(shared_dir):
    path = shared_dir / "models" / "mobilenet_v2_0.35_224_notop.weights.h5"
    config = backbone_run(path, width_multiplier=0.5, aspp=Aspp.NONE)
    model = build_network(config.model, (64, 64))
    before = model.get_layer("block_16_project").get_weights()[0]
    with pytest.raises(
        ValueError, match=r"must fit in their order; .*: expected .*, found .* \("
    ) as error:
        initializer(config)(model, [])
    assert "give the weights of the same network and width" in str(error.value)
    np.testing.assert_array_equal(model.get_layer("block_16_project").get_weights()[0], before)


def test_weights_of_a_whole_network_give_the_backbone_alone(tmp_path):
    other = build_network(SMALL, (32, 32))
    save_weights(initialization.named_arrays(other), tmp_path / "w.npz")
    config = TrainingConfig.from_settings(
        model=SMALL,
        dataset="synthetic",
        crop_height=32,
        crop_width=32,
        backbone_weights=str(tmp_path / "w.npz"),
    )
    model = build_network(SMALL, (32, 32))
    head = model.get_layer("logits").get_weights()[0]
    initializer(config)(model, [])
    np.testing.assert_array_equal(model.get_layer("logits").get_weights()[0], head)
    np.testing.assert_array_equal(
        model.get_layer("Conv1").get_weights()[0], other.get_layer("Conv1").get_weights()[0]
    )


def test_run_folder_refuses_other_settings_and_names_the_change(tmp_path):
    config = TrainingConfig.from_settings(model=SMALL, dataset="synthetic", crop_height=32)
    folder = RunFolder(tmp_path)
    labels = LabelSet.from_names(["a", "b", "c"])
    folder.prepare(config, labels)
    folder.prepare(config, labels)
    assert read_config(tmp_path) == config
    assert folder.read_labels() == labels
    folder.history.touch()  # something was trained
    changed = TrainingConfig.from_settings(model=SMALL, dataset="synthetic", crop_height=32, seed=7)
    with pytest.raises(FileExistsError, match="seed 0 -> 7"):
        folder.prepare(changed, labels)


def test_unknown_keys_in_a_stored_configuration_are_an_error(tmp_path):
    config = TrainingConfig.from_settings(model=SMALL, dataset="synthetic", crop_height=32)
    values = config.to_json() | {"momentum": 1}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(ValueError, match="unknown training keys \\['momentum'\\]"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train_steps": 0}, "train_steps must be at least 1"),
        ({"quantize_delay_step": 4000}, "quantize_delay_step must be -1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("nan")}, "learning_rate: expected a finite number, got nan"),
        ({"warmup_steps": -5}, "warmup_steps must not be negative"),
        ({"quantize_delay_step": 0}, "batch norms that were never fitted"),
        ({"label_smoothing": 1.0}, "label_smoothing must be 0 to below 1"),
        ({"holdout_images": 5}, "belong together"),
        ({"crop_height": 100}, "height 100 is not a multiple of output_stride 16"),
    ],
)
def test_wrong_training_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig.from_settings(model=SMALL, dataset="synthetic", **values)

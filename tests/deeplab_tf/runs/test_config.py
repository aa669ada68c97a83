"""A configuration's groups and its flat JSON, which files of older runs must still fit."""

import json
import pathlib

import pytest

from deeplab_tf.models.config import (
    CONFIGS,
    Aspp,
    DeepLabConfig,
    ENetConfig,
    ModelConfig,
    UNetConfig,
    configure,
)
from deeplab_tf.models.registry import NETWORKS
from deeplab_tf.runs.config import DataConfig, TrainingConfig, read_config

ZOO = sorted((pathlib.Path(__file__).resolve().parents[3] / "zoo").glob("*/config.json"))
LATER = {
    "distillation": {"loss": "logits", "teacher": "", "temperature": 1.0, "weight": 0.3},
    "parity_interval": 0,
    "quantize_scheme": "planned",
    "quantize_weight_average": 0.0,
    "schedule": "poly",
    "sensor": None,
}
"""Settings that the zoo's files are older than, and what they are then."""
LATER_OF_MODELS = {
    "backbone": "mobilenet_v2",
    "description": None,
    "keep_rows": False,
    "logits_alignment": "half_pixel",
}
NOTHING_DEFAULT = {
    "augmentation": {"color_jitter": 0.0, "flip": False, "max_scale": 1.5, "min_scale": 0.75},
    "backbone_weights": "backbone.npz",
    "batch_size": 3,
    "cache_mb": 64,
    "checkpoint_interval": 7,
    "class_weighting": "enet",
    "crop_height": 72,
    "crop_width": 104,
    "data_dir": "scans",
    "dataset": "semantic_kitti",
    "decay_power": 0.5,
    "deterministic": True,
    "distillation": {
        "loss": "channel_wise",
        "teacher": "runs/teacher",
        "temperature": 2.5,
        "weight": 0.125,
    },
    "distribution": "mirrored",
    "freeze_batch_norm": True,
    "holdout_images": 11,
    "init_from": "runs/before",
    "label_smoothing": 0.0625,
    "learning_rate": 0.003,
    "model": {
        "aspp": "slim",
        "aspp_channels": 32,
        "atrous_rates": [2, 4],
        "backbone": "mobilenet_v3_large",
        "batch_norm_momentum": 0.75,
        "channels": 5,
        "decoder": False,
        "decoder_channels": 24,
        "description": None,
        "keep_rows": True,
        "logits_alignment": "align_corners",
        "network": "deeplab",
        "num_classes": 19,
        "output_stride": 8,
        "width_multiplier": 0.5,
    },
    "optimizer": "adamw",
    "parity_interval": 13,
    "preprocessing": {"mean": [1.0, 2.0, 3.0, 4.0, 5.0], "std": [6.0, 7.0, 8.0, 9.0, 10.0]},
    "quantize_calibration_images": 17,
    "quantize_delay_step": 90,
    "quantize_freeze_batch_norm": False,
    "quantize_learning_rate": 0.0002,
    "quantize_scheme": "tfmot_default",
    "quantize_weight_average": 0.9,
    "schedule": "cosine",
    "seed": 42,
    "sensor": {
        "fov_down": -25.0,
        "fov_left": 180.0,
        "fov_right": -180.0,
        "fov_up": 3.0,
        "height": 64,
        "mean": [1.0, 2.0, 3.0, 4.0, 5.0],
        "std": [6.0, 7.0, 8.0, 9.0, 10.0],
        "width": 512,
    },
    "split": "train_a",
    "summary_interval": 19,
    "train_steps": 100,
    "validation_interval": 23,
    "validation_split": "holdout",
    "warmup_steps": 5,
    "weight_decay": 0.001,
}


def text(values: dict) -> str:
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize("path", ZOO, ids=lambda path: path.parent.name)
def test_configurations_of_the_zoo_are_written_as_they_were(path):
    stored = json.loads(path.read_text())
    model = LATER_OF_MODELS | stored["model"]
    if model["network"] == "deeplab_mobilenet_v2":  # the former name of a backbone's network
        model["network"] = "deeplab"
    expected = LATER | stored | {"model": model}
    assert text(read_config(path.parent).to_json()) == text(expected)


def test_every_setting_survives_the_file(tmp_path):
    default = TrainingConfig(DeepLabConfig(2), DataConfig("synthetic")).to_json()
    assert NOTHING_DEFAULT.keys() == default.keys()
    assert not [key for key, value in NOTHING_DEFAULT.items() if value == default[key]]
    (tmp_path / "config.json").write_text(text(NOTHING_DEFAULT))
    config = read_config(tmp_path)
    assert text(config.to_json()) == (tmp_path / "config.json").read_text()
    assert TrainingConfig.from_settings(**config.settings()) == config


def test_settings_by_flat_name_reach_their_groups():
    config = TrainingConfig.from_settings(
        model=DeepLabConfig(2), dataset="synthetic", quantize_delay_step=5, parity_interval=3
    )
    assert (config.quantization.delay_step, config.intervals.parity) == (5, 3)
    changed = config.with_settings(quantize_learning_rate=0.5, learning_rate=0.25)
    assert (changed.quantization.learning_rate, changed.optimization.learning_rate) == (0.5, 0.25)
    assert changed.quantization.delay_step == 5
    with pytest.raises(ValueError, match=r"unknown training keys \['delay_step'\]"):
        config.with_settings(delay_step=1)


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model": {"num_classes": 2}, "dataset": "voc"}')
    with pytest.raises(ValueError, match=r"keys \['augmentation', 'class_weighting', .* missing"):
        read_config(tmp_path)


def test_each_network_has_its_own_configuration():
    assert {name: network.config for name, network in NETWORKS.items()} == CONFIGS
    values = {"num_classes": 5, "aspp": Aspp.SLIM, "output_stride": 8, "keep_rows": True}
    expected = {
        "deeplab": DeepLabConfig(5, aspp=Aspp.SLIM, output_stride=8, keep_rows=True),
        "unet": UNetConfig(5, aspp=Aspp.SLIM, output_stride=8, keep_rows=True),
        "enet": ENetConfig(5, output_stride=8, keep_rows=True),
    }
    for name, config in expected.items():
        assert configure(name, values) == config
        assert ModelConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_keys_that_a_network_lacks_are_stored_with_fixed_values():
    stored = ENetConfig(5).to_json()
    assert stored.keys() == DeepLabConfig(5).to_json().keys()
    assert (stored["network"], stored["aspp"], stored["backbone"]) == (
        "enet",
        "none",
        "mobilenet_v2",
    )
    other = ModelConfig.from_json(stored | {"backbone": "resnet18"})  # of an older run's flags
    assert other == ENetConfig(5)


def test_sizes():
    config = ENetConfig(5)
    assert config.padded_size(33, 34) == (33, 48)
    for height in (0, 15, 34):
        with pytest.raises(ValueError, match=f"height {height} is not a multiple"):
            config.check_size(height, 32)
    assert config.fixed_size is None

"""UNet and ENet: published sizes, shapes, older configurations."""

import numpy as np
import pytest
import tensorflow as tf

from deeplab_tf.models.config import Aspp, ModelConfig, default_aspp
from deeplab_tf.models.registry import build_network
from deeplab_tf.models.unpooling import MaxUnpooling


def learned(model):
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)


def test_classic_unet_has_the_published_number_of_parameters():
    # 31,037,633 for 3 channels and one class with batch norm: milesial/Pytorch-UNet, whose
    # transposed 2x2 convolutions have as many weights as 2x2 convolutions behind a resize.
    config = ModelConfig(
        1, network="unet", backbone="unet_encoder", aspp=Aspp.NONE, decoder_channels=512
    )
    model = build_network(config, (64, 96))
    assert learned(model) == 31_037_633
    assert model.output_shape == (None, 64, 96, 1)


def test_enet_has_about_the_published_number_of_parameters():
    # 0.37 M (Paszke et al. 2016, table 3). By hand, after the authors' code (e-lab/ENet-training):
    # a bottleneck to `after` channels has after / 4 inside; batch norms behind all convolutions
    # but the first of an asymmetric pair.
    def inside(before, after, first, places, norms):
        inner = after // 4
        weights = before * inner * first + inner * inner * places + inner * after
        return weights + 2 * (norms * inner + after)

    def bottleneck(channels, places):
        return inside(channels, channels, 1, places, 2)

    def shortcut(before, after):
        return before * after + 2 * after

    def down(before, after):
        return inside(before, after, 4, 9, 2) + shortcut(before, after)

    def up(before, after):
        return inside(before, after, 1, 9, 2) + shortcut(before, after)

    section = 6 * bottleneck(128, 9) + 2 * bottleneck(128, 10)
    initial = (3 * 9 * 13 + 2 * 13) + (3 + 2 * 3)
    expected = initial + down(16, 64) + 4 * bottleneck(64, 9) + down(64, 128)
    expected += 2 * section + up(128, 64) + 2 * bottleneck(64, 9) + up(64, 16) + bottleneck(16, 9)
    expected += 9 * 16 * 11 + 11
    model = build_network(ModelConfig(11, network="enet"), (64, 96))
    assert learned(model) == expected
    assert expected == pytest.approx(370_000, rel=0.03)
    widths = {
        name: model.get_layer(f"bottleneck{name}_conv").output.shape[-1]
        for name in ("1_0", "2_0", "4_0", "5_0")
    }
    assert widths == {"1_0": 16, "2_0": 32, "4_0": 16, "5_0": 4}


@pytest.mark.parametrize("size", [(64, 96), (65, 97)])
@pytest.mark.parametrize(
    ("network", "backbone", "expected"),
    [
        ("enet", "mobilenet_v2", 2),
        ("enet_max_unpooling", "mobilenet_v2", 2),
        ("unet", "mobilenet_v2", 2),
        ("unet", "vgg11_bn", 1),
        ("deeplab", "resnet18", 4),
    ],
)
def test_logits_of_any_channels_and_classes(network, backbone, expected, size):
    config = ModelConfig(7, channels=5, network=network, backbone=backbone, aspp=Aspp.SLIM)
    model = build_network(config, size)
    assert model.output_shape == (None, *(-(-side // expected) for side in size), 7)


def test_odd_sizes_of_even_pools_are_refused_or_kept():
    config = ModelConfig(7, network="unet", backbone="vgg11_bn", aspp=Aspp.NONE)
    assert build_network(config, (65, 97)).output_shape == (None, 65, 97, 7)


def test_unet_needs_its_decoder():
    config = ModelConfig(7, network="unet", decoder=False)
    with pytest.raises(ValueError, match="unet is nothing without its decoder"):
        build_network(config, (64, 96))


def test_max_unpooling_puts_values_where_the_maxima_were():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(2, 6, 8, 3)).astype(np.float32)
    features = rng.normal(size=(2, 3, 4, 3)).astype(np.float32)
    pooled, places = tf.nn.max_pool_with_argmax(before, 2, 2, "SAME", include_batch_in_index=True)
    expected = np.zeros(before.size, np.float32)
    expected[places.numpy().ravel()] = features.ravel()
    found = MaxUnpooling()([features, before, pooled]).numpy()
    np.testing.assert_array_equal(found, expected.reshape(before.shape))


def test_max_unpooling_learns_nothing_more():
    resized, unpooled = (
        build_network(ModelConfig(11, network=name), (64, 96))
        for name in ("enet", "enet_max_unpooling")
    )
    assert learned(resized) == learned(unpooled)


def test_enet_needs_room_beside_the_channels():
    with pytest.raises(ValueError, match="enet takes at most 15 channels; got 16"):
        build_network(ModelConfig(7, channels=16, network="enet"), (64, 96))


def test_runs_from_before_backbones_are_read():
    values = ModelConfig(11).to_json()
    del values["backbone"], values["keep_rows"]
    found = ModelConfig.from_json({**values, "network": "deeplab_mobilenet_v2"})
    assert (found.network, found.backbone) == ("deeplab", "mobilenet_v2")
    assert found == ModelConfig(11)


def test_the_pyramid_belongs_to_deeplab():
    assert default_aspp("deeplab") is Aspp.ATROUS
    assert default_aspp("unet") is Aspp.NONE

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
    model = build_network(config, 64, 96)
    assert learned(model) == 31_037_633
    assert model.output_shape == (None, 64, 96, 1)


def test_enet_has_about_the_published_number_of_parameters():
    # 0.37 M (Paszke et al. 2016, table 3). By hand: a bottleneck of n channels inside and 4n
    # outside has 4n*n + n*n*k + n*4n weights and 2 (n + n + 4n) of batch norms, k the kernel's
    # places.
    def bottleneck(inner, places, norms=6):
        return inner * inner * (8 + places) + 2 * inner * norms

    def down(before, after):
        inner = before // 4
        convolutions = before * inner * 4 + inner * inner * 9 + inner * after + before * after
        return convolutions + 2 * (2 * inner + 2 * after)

    def up(before, after):
        inner = before // 4
        convolutions = before * inner + inner * inner * 9 + inner * after + before * after
        return convolutions + 2 * (2 * inner + 2 * after)

    section = 6 * bottleneck(32, 9) + 2 * (bottleneck(32, 10, 7))
    initial = (3 * 9 * 13 + 2 * 13) + (3 + 2 * 3)
    expected = initial + down(16, 64) + 4 * bottleneck(16, 9) + down(64, 128)
    expected += 2 * section + up(128, 64) + 2 * bottleneck(16, 9) + up(64, 16) + bottleneck(4, 9)
    expected += 9 * 16 * 11 + 11
    assert learned(build_network(ModelConfig(11, network="enet"), 64, 96)) == expected
    assert expected == pytest.approx(370_000, rel=0.02)


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
    model = build_network(config, *size)
    assert model.output_shape == (None, *(-(-side // expected) for side in size), 7)


def test_odd_sizes_of_even_pools_are_refused_or_kept():
    config = ModelConfig(7, network="unet", backbone="vgg11_bn", aspp=Aspp.NONE)
    assert build_network(config, 65, 97).output_shape == (None, 65, 97, 7)


def test_unet_needs_its_decoder():
    config = ModelConfig(7, network="unet", decoder=False)
    with pytest.raises(ValueError, match="unet is nothing without its decoder"):
        build_network(config, 64, 96)


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
        build_network(ModelConfig(11, network=name), 64, 96)
        for name in ("enet", "enet_max_unpooling")
    )
    assert learned(resized) == learned(unpooled)


def test_enet_needs_room_beside_the_channels():
    with pytest.raises(ValueError, match="enet takes at most 15 channels; got 16"):
        build_network(ModelConfig(7, channels=16, network="enet"), 64, 96)


def test_runs_from_before_backbones_are_read():
    values = ModelConfig(11).to_json()
    del values["backbone"], values["keep_rows"]
    found = ModelConfig.from_json({**values, "network": "deeplab_mobilenet_v2"})
    assert (found.network, found.backbone) == ("deeplab", "mobilenet_v2")
    assert found == ModelConfig(11)


def test_the_pyramid_belongs_to_deeplab():
    assert default_aspp("deeplab") is Aspp.ATROUS
    assert default_aspp("unet") is Aspp.NONE

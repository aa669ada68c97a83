"""Groups of channels, and that removing them is the same as setting their rows to 0."""

import numpy as np
import pytest
import tf_keras as keras

from deeplab_tf.graph.from_keras import graph_from_keras
from deeplab_tf.graph.kernels import kernel_key
from deeplab_tf.pruning.channel_groups import find_channels, mixes_channels
from deeplab_tf.pruning.removal import remove_channels, with_biases
from tests.deeplab_tf.quantization.networks import NETWORKS, built, images
from tests.small_network import small_keras_model
from tests.zoo import scenes

layers = keras.layers


def test_groups_of_the_small_network():
    found = find_channels(*graph_from_keras(small_keras_model()))
    (group,) = found.groups  # a residual sum and the depthwise convolution that it goes through
    assert group.producers == ("Conv1", "block_1_project")
    assert group.consumers == ("block_1_project", "logits")
    assert len(group.channels) == 8
    assert found.fixed == {"logits": "the network's output"}


def test_groups_of_deeplab():
    found = find_channels(*NETWORKS["deeplab"]())
    by_name = {group.name: group for group in found.groups}
    assert by_name["block_2_expand"].consumers == ("block_2_project",)
    assert len(by_name["block_2_expand"].channels) == 144
    stage = by_name["block_3_project"]
    assert stage.producers == ("block_3_project", "block_4_project", "block_5_project")
    # A concatenation by part: every branch has its own number of channels.
    for branch in ("aspp_1x1_conv", "aspp_rate6_pointwise_conv", "aspp_pooling_conv"):
        assert by_name[branch].consumers == ("aspp_project_conv",)
    assert list(found.fixed) == ["logits"]


def test_what_mixes_channels_without_a_kernel_keeps_them():
    found = find_channels(*NETWORKS["chain"]())
    assert "odd" in found.fixed["narrow"]  # a layer normalization
    assert [group.name for group in found.groups] == ["stem", "branch", "up"]


def test_a_gate_per_channel_joins_its_channels():
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, name="features")(image)
    gate = layers.GlobalAveragePooling2D(name="pool")(x)
    gate = layers.Reshape((1, 1, 16), name="pixel")(gate)
    gate = layers.Conv2D(8, 1, name="squeeze")(gate)
    gate = layers.Conv2D(16, 1, activation="sigmoid", name="gate")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    network = graph_from_keras(keras.Model(image, layers.Conv2D(2, 1, name="logits")(x)))
    features, squeeze = find_channels(*network).groups
    assert features.producers == ("features", "gate_linear")
    assert features.consumers == ("squeeze", "logits")
    assert squeeze.consumers == ("gate_linear",)
    check_removal(*network, np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("f4"))


def check_removal(description, arrays, image):
    """Removes every third channel of each group; compares with rows of zeros."""
    description, arrays = with_biases(description, arrays)
    channels = find_channels(description, arrays)
    removed = [channel for group in channels.groups for channel in group.channels[::3]]
    small = remove_channels(description, arrays, channels=channels, removed=removed)
    zeroed = dict(arrays)
    for node in description.nodes:
        if mixes_channels(node):
            rows = np.isin(channels.read_by(node), removed)
            kernel = zeroed[kernel_key(node)].copy()
            kernel[(..., rows) if node.kind == "conv2d_transpose" else (..., rows, slice(None))] = 0
            zeroed[kernel_key(node)] = kernel
    expected, found = (
        np.asarray(built(*network)(image)) for network in ((description, zeroed), small)
    )
    # The order of float32 sums differs.
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()
    sizes = [sum(value.size for value in part.values()) for part in (arrays, small[1])]
    assert sizes[1] < 0.9 * sizes[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_removal_is_a_kernel_with_rows_of_zeros(name):
    description, arrays = NETWORKS[name]()
    image = scenes(1) if name == "deeplab" else images(description, 1)
    check_removal(description, arrays, image)


def test_no_tensor_loses_all_channels():
    description, arrays = with_biases(*graph_from_keras(small_keras_model()))
    channels = find_channels(description, arrays)
    with pytest.raises(ValueError, match="Conv1: no channel would be left"):
        remove_channels(description, arrays, channels=channels, removed=channels.groups[0].channels)

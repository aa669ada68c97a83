"""What is taken off an imported network so that training and export put theirs there."""

import numpy as np
import pytest

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.graph.network import NetworkGraph, Node
from deeplab_tf.models.config import IMPORTED, ImportedConfig, ModelConfig
from deeplab_tf.models.registry import build_network
from tflite_tools.to_keras.split_head import split_head

CONVOLUTION = Node(
    "logits",
    "conv2d",
    inputs=("image",),
    attributes={"filters": 4, "kernel_size": 3, "strides": 4, "padding": "same"},
)
ARRAYS = {"logits/kernel": np.zeros((3, 3, 3, 4)), "logits/bias": np.zeros(4)}


def resize(name, source, size, alignment="align_corners"):
    values = {"height": size[0], "width": size[1], "interpolation": "bilinear"}
    values |= {"alignment": alignment, "like": "image"}
    return Node(name, "resize", inputs=(source,), attributes=values)


def description(*nodes, shape=(17, 33, 3)):
    return NetworkGraph(
        "image", shape, nodes=(CONVOLUTION, *nodes), output_name=(CONVOLUTION, *nodes)[-1].name
    )


@pytest.mark.parametrize(
    ("nodes", "alignment", "dropped"),
    [
        ((), Alignment.HALF_PIXEL, ()),
        ((resize("up", "logits", (17, 33)),), Alignment.ALIGN_CORNERS, ("up",)),
        (
            (
                Node("range", "identity", inputs=("logits",)),
                resize("up", "range", (17, 33), "legacy"),
                Node("scores", "softmax", inputs=("up",)),
                Node(
                    "map",
                    "argmax",
                    inputs=("scores",),
                    attributes={"axis": 3, "output_type": "int64"},
                ),
            ),
            Alignment.LEGACY,
            ("up", "scores", "map"),
        ),
    ],
)
def test_head_is_taken_off(nodes, alignment, dropped):
    shorter, arrays, found, names = split_head(description(*nodes), ARRAYS)
    assert (shorter.output_name, found, names) == ("logits", alignment, dropped)
    assert arrays.keys() == ARRAYS.keys()


def test_resize_to_another_size_stays():
    shorter, _, alignment, dropped = split_head(
        description(resize("up", "logits", (9, 17))), ARRAYS
    )
    assert (shorter.output_name, alignment, dropped) == ("up", Alignment.HALF_PIXEL, ())


def test_classifier_is_refused():
    pool = Node("pool", "global_average_pool2d", inputs=("logits",), attributes={"keepdims": True})
    flat = Node("flat", "reshape", inputs=("pool",), attributes={"target_shape": [4]})
    with pytest.raises(ValueError, match=r"ends in \[1, 1, 4\], not in logits"):
        split_head(description(pool, flat), ARRAYS)


def test_imported_network_is_built_by_its_configuration():
    config = ImportedConfig(num_classes=4, description=description())
    assert build_network(config, (17, 33)).output_shape == (None, 5, 9, 4)
    assert config.padded_size(360, 480) == (17, 33)
    assert ModelConfig.from_json(config.to_json()) == config
    wrong = ImportedConfig(num_classes=5, description=description())
    with pytest.raises(ValueError, match=r"gives \[5, 9, 4\], not logits \[h, w, 5\]"):
        build_network(wrong, (17, 33))
    with pytest.raises(ValueError, match="belong together"):
        ModelConfig.from_json({"num_classes": 4, "network": IMPORTED})

"""The networks by name. A new one is its own file, its configuration and one line here."""

import collections.abc
import dataclasses
from typing import Any

import tf_keras as keras

from deeplab_tf.graph.build import build_model
from deeplab_tf.models.config import (
    DeepLabConfig,
    ENetConfig,
    ENetMaxUnpoolingConfig,
    ImportedConfig,
    ModelConfig,
    UNetConfig,
)
from deeplab_tf.models.deeplab import build_deeplab
from deeplab_tf.models.enet import build_enet, build_enet_max_unpooling
from deeplab_tf.models.unet import build_unet


@dataclasses.dataclass(frozen=True)
class Network:
    """A network that can be built.

    Attributes:
        config: class of its configuration.
        build: function of (configuration of that class, (height, width)) that returns the model.
    """

    config: type[ModelConfig]
    build: collections.abc.Callable[[Any, tuple[int, int]], keras.Model]


def _build_imported(config: ImportedConfig, size: tuple[int, int]) -> keras.Model:
    model = build_model(config.description, size, all_outputs=True)
    shape = tuple(model.outputs[0].shape)
    if len(shape) != 4 or shape[-1] != config.num_classes:
        raise ValueError(
            f"the imported network gives {list(shape[1:])}, not logits "
            f"[h, w, {config.num_classes}]; import it with --trim_head and --num_classes"
        )
    return model


NETWORKS = {
    network.config.network: network
    for network in (
        Network(DeepLabConfig, build_deeplab),
        Network(ENetConfig, build_enet),
        Network(ENetMaxUnpoolingConfig, build_enet_max_unpooling),
        Network(UNetConfig, build_unet),
        Network(ImportedConfig, _build_imported),
    )
}


def build_network(config: ModelConfig, size: tuple[int, int]) -> keras.Model:
    """Builds a network with new weights.

    Args:
        config: what to build.
        size: (height, width) of the input.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes]. An
        imported network gives its further outputs as well, behind the logits, in a list;
        `main_output` leaves them out.

    Raises:
        ValueError: a size that the network does not take.
    """
    return NETWORKS[config.network].build(config, size)

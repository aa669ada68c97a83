"""The networks by name. A new one is its own file and one line here."""

import tf_keras as keras

from deeplab_tf.graph.build import build_imported
from deeplab_tf.models.config import IMPORTED, ModelConfig
from deeplab_tf.models.deeplab import build_deeplab
from deeplab_tf.models.enet import build_enet, build_enet_max_unpooling
from deeplab_tf.models.unet import build_unet


def _build_imported(config: ModelConfig, size: tuple[int, int]) -> keras.Model:
    model = build_imported(config.description, size)
    if len(model.output_shape) != 4 or model.output_shape[-1] != config.num_classes:
        raise ValueError(
            f"the imported network gives {list(model.output_shape[1:])}, not logits "
            f"[h, w, {config.num_classes}]; import it with --trim_head and --num_classes"
        )
    return model


NETWORKS = {
    "deeplab": build_deeplab,
    "enet": build_enet,
    "enet_max_unpooling": build_enet_max_unpooling,
    "unet": build_unet,
    IMPORTED: _build_imported,
}


WITH_BACKBONE = ("deeplab", "unet")
"""Networks over a backbone of `models.backbones`."""


def build_network(config: ModelConfig, size: tuple[int, int]) -> keras.Model:
    """Builds a network with new weights.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes].

    Raises:
        ValueError: unknown network, or a size that its strides do not divide.
    """
    if config.network not in NETWORKS:
        raise ValueError(f"unknown network {config.network!r}; known: {sorted(NETWORKS)}")
    return NETWORKS[config.network](config, size)

"""The networks by name. A new one is its own file and one line here."""

import tf_keras as keras

from deeplab_tf.models.config import ModelConfig
from deeplab_tf.models.deeplab import build_deeplab

NETWORKS = {
    "deeplab_mobilenet_v2": build_deeplab,
}


def build_network(config: ModelConfig, height: int, width: int) -> keras.Model:
    """Builds a network with new weights.

    Returns:
        image float32 [batch, height, width, channels] -> logits float32 [batch, h, w, classes].

    Raises:
        ValueError: unknown network, or a size that its strides do not divide.
    """
    if config.network not in NETWORKS:
        raise ValueError(f"unknown network {config.network!r}; known: {sorted(NETWORKS)}")
    return NETWORKS[config.network](config, height, width)

"""tfmot's default quantization-aware scheme, as the baseline of comparisons.

Depthwise kernels have one range for all channels, activation ranges start at +-6 with a decay of
0.999, and nothing is calibrated. The only addition is a configuration for resizing, which tfmot
rejects otherwise.
"""

import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
)

NoOpQuantizeConfig = default_8bit_quantize_configs.NoOpQuantizeConfig


def quantize_aware_stock(model: keras.Model, prefix: str) -> keras.Model:
    """Builds the quantization-aware copy with tfmot's defaults and newly initialized weights.

    Args:
        model: flat Functional graph of Keras layers.
        prefix: of the names of wrapped layers.

    Returns:
        The quantization-aware network.

    Raises:
        ValueError: a layer that tfmot does not know.
    """

    def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
        copy = type(layer).from_config(layer.get_config())
        config = NoOpQuantizeConfig() if isinstance(layer, keras.layers.Resizing) else None
        return tfmot.quantization.keras.quantize_annotate_layer(copy, config)

    keras.backend.reset_uids()  # the layer that tfmot adds is named by a counter
    try:
        with tfmot.quantization.keras.quantize_scope({"NoOpQuantizeConfig": NoOpQuantizeConfig}):
            annotated = keras.models.clone_model(model, clone_function=annotate)
            return tfmot.quantization.keras.quantize_apply(
                annotated, quantized_layer_name_prefix=prefix
            )
    except RuntimeError as error:
        raise ValueError(f"tfmot's default scheme rejects the network: {error}") from error

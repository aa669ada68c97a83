"""tfmot's own default scheme, as anyone gets it: the row that our scheme is compared with.

Depthwise kernels have one range for all channels, activation ranges start at +-6 with a decay of
0.999 and nothing is calibrated. The one thing added is a configuration for resizing, which tfmot
refuses without.
"""

import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_configs,
)

NoOpQuantizeConfig = default_8bit_quantize_configs.NoOpQuantizeConfig


def quantize_aware_stock(model: keras.Model, prefix: str) -> keras.Model:
    """The quantization-aware twin by tfmot's defaults. Its weights are new.

    Args:
        model: flat Functional graph of stock layers.
        prefix: of the wrapped layers' names.

    Raises:
        ValueError: a layer that tfmot does not know.
    """

    def annotate(layer):
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
        raise ValueError(f"tfmot's default scheme refuses the network: {error}") from error

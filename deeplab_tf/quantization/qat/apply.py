"""Builds the quantization-aware copy of a float network and moves weights between the two.

1. plan which tensors get a range (`quantization.qat.scheme`)
2. annotate each layer with its part of the plan
3. wrap the annotated layers with tfmot
4. copy the float weights and set the weight ranges from them
"""

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

from deeplab_tf.quantization.qat import scheme
from deeplab_tf.quantization.qat.stock import quantize_aware_stock
from deeplab_tf.runs.choices import QatScheme

WRAPPER_PREFIX = "quant_"


def quantize_aware(
    model: keras.Model,
    input_range: tuple[float, float],
    *,
    per_channel: bool = True,
    qat_scheme: QatScheme = QatScheme.PLANNED,
) -> keras.Model:
    """Builds the quantization-aware copy of a float network, with newly initialized weights.

    Args:
        model: flat Functional graph of Keras layers.
        input_range: smallest and largest normalized pixel.
        per_channel: one weight range per channel; False for one per kernel.
        qat_scheme: the scheme; tfmot's ignore `input_range` and `per_channel`.

    Returns:
        A model with the same inputs and outputs; layers are named "quant_<float name>".

    Raises:
        ValueError: a layer that tfmot's default scheme does not know.
    """
    if qat_scheme.is_stock:
        return quantize_aware_stock(model, WRAPPER_PREFIX)
    plans, unknown = scheme.plan_layers(model), scheme.unknown_layers(model)

    def annotate(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = scheme.config_for(layer, plans[layer.name], per_channel=per_channel)
        if layer.name in unknown:
            copy = type(layer).from_config(layer.get_config())
        else:
            copy = scheme.integer_form(layer)
        return tfmot.quantization.keras.quantize_annotate_layer(copy, config)

    with tfmot.quantization.keras.quantize_scope(scheme.custom_objects()):
        annotated = keras.models.clone_model(model, clone_function=annotate)
        return tfmot.quantization.keras.quantize_apply(
            annotated,
            scheme.FixedInputScheme(input_range),
            quantized_layer_name_prefix=WRAPPER_PREFIX,
        )


def wrapped_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns tfmot's wrappers by the name of the float layer inside."""
    return {
        layer.name.removeprefix(WRAPPER_PREFIX): layer
        for layer in model.layers
        if layer.name.startswith(WRAPPER_PREFIX)
    }


def short_name(variable: tf.Variable) -> str:
    """Returns the last part of a variable's name: kernel for quant_block_1_expand/kernel:0."""
    return variable.name.split("/")[-1].split(":")[0]


def load_float_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Copies "layer/weight" arrays of the float network into its quantization-aware copy.

    Args:
        model: quantization-aware network; changed in place.
        arrays: "layer/weight" arrays of the float network.

    Raises:
        ValueError: a weight is missing or has another shape.
    """
    for name, wrapper in wrapped_layers(model).items():
        for variable in wrapper.weights:
            weight = short_name(variable)
            if is_quantizer_variable(weight):
                continue
            value = arrays.get(f"{name}/{weight}")
            if value is None or value.shape != tuple(variable.shape):
                given = "nothing" if value is None else f"shape {value.shape}"
                raise ValueError(
                    f"weight {name}/{weight}: expected shape {tuple(variable.shape)}, got {given}"
                )
            variable.assign(value)


def float_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """Returns the "layer/weight" arrays of the float network in a quantization-aware one."""
    return {
        f"{name}/{short_name(variable)}": variable.numpy()
        for name, wrapper in wrapped_layers(model).items()
        for variable in wrapper.weights
        if not is_quantizer_variable(short_name(variable))
    }


def float_arrays_inside(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Converts stored "quant_layer/weight" arrays of a quantization-aware network.

    Args:
        arrays: of the quantization-aware network.

    Returns:
        The "layer/weight" arrays of the float network inside.
    """
    return {
        name.removeprefix(WRAPPER_PREFIX): value
        for name, value in arrays.items()
        if not is_quantizer_variable(name.rpartition("/")[2])
    }


def is_quantizer_variable(name: str) -> bool:
    """Returns whether a variable of a wrapper belongs to tfmot, not to the layer inside."""
    return name.endswith(("_min", "_max")) or name == "optimizer_step"

"""A float network becomes its quantization-aware twin, and weights move between the two.

1. plan: which tensors get a range (`quantization.scheme`)
2. annotate each layer with its part of the plan
3. tfmot wraps the annotated layers
4. float weights are copied in, weight ranges follow from them
"""

import numpy as np
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
    """Builds the quantization-aware twin of a float network. Its weights are new.

    Args:
        model: flat Functional graph of stock layers.
        input_range: smallest and largest normalized pixel.
        per_channel: one weight range a channel; False: one a kernel.
        qat_scheme: whose; tfmot's default takes neither of the two above.

    Returns:
        the same function signature; layers are named "quant_<float name>".

    Raises:
        ValueError: a layer that the scheme does not know.
    """
    if qat_scheme is QatScheme.TFMOT_DEFAULT:
        return quantize_aware_stock(model, WRAPPER_PREFIX)
    plans, unknown = scheme.plan_layers(model), scheme.unknown_layers(model)

    def annotate(layer):
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
    """Tfmot's wrappers by the name of the float layer inside."""
    return {
        layer.name.removeprefix(WRAPPER_PREFIX): layer
        for layer in model.layers
        if layer.name.startswith(WRAPPER_PREFIX)
    }


def short_name(variable) -> str:
    """ "kernel" for "quant_block_1_expand/kernel:0"."""
    return variable.name.split("/")[-1].split(":")[0]


def load_float_weights(model: keras.Model, arrays: dict[str, np.ndarray]) -> None:
    """Copies "layer/weight" arrays of the float network into its quantization-aware twin.

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
                found = "nothing" if value is None else f"shape {value.shape}"
                raise ValueError(
                    f"weight {name}/{weight} needs shape {tuple(variable.shape)}, found {found}"
                )
            variable.assign(value)


def float_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The "layer/weight" arrays of the float network inside a quantization-aware one."""
    return {
        f"{name}/{short_name(variable)}": variable.numpy()
        for name, wrapper in wrapped_layers(model).items()
        for variable in wrapper.weights
        if not is_quantizer_variable(short_name(variable))
    }


def float_arrays_inside(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same of a quantization-aware network's stored "quant_layer/weight" arrays."""
    return {
        name.removeprefix(WRAPPER_PREFIX): value
        for name, value in arrays.items()
        if not is_quantizer_variable(name.rpartition("/")[2])
    }


def is_quantizer_variable(name: str) -> bool:
    """Whether a wrapper's variable belongs to tfmot rather than to the layer inside."""
    return name.endswith(("_min", "_max")) or name == "optimizer_step"

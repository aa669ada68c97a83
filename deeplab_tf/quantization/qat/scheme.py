"""The quantization scheme: which tensors of a network are quantized, applied by tfmot's wrappers.

The converter fuses convolution, batch norm and activation into one integer operator, and some
operators have one range for input and output. So a tensor gets its own range only where the integer
file has one:

    convolution -> batch norm -> ReLU6          one range, after the ReLU6
    resize, max pool, average pool, pad         none: they share the range of their input
    a -> concatenation <- b                     one range, after the concatenation; the same for
                                                maximum and minimum: their kernels have one scale
    network input                               fixed by the preprocessing contract

Only ReLUs without a limit, or with a limit of 6, fuse (`fusable_relu`). Any other ReLU is a
separate operator: the preceding convolution has a range, and so has the ReLU, which is built from
operators with integer kernels (`integer_form`).

Weights are quantized per channel, also of depthwise convolutions (tfmot's default: per tensor). A
layer that is in none of the tables here is not quantized, and a warning names it: the converter
decides what the file computes there, and the gate of the export checks it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras
from absl import logging
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_config as tfmot_config,
)
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantize_layer,
    quantize_layout_transform,
    quantize_scheme,
)
from tensorflow_model_optimization.python.core.quantization.keras import (
    quantizers as tfmot_quantizers,
)
from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
    default_8bit_quantize_registry,
)
from tensorflow_model_optimization.python.core.quantization.keras.graph_transformations import (
    model_transformer,
    transforms,
)

from deeplab_tf.graph import layers as graph_layers
from deeplab_tf.quantization.qat.quantizers import (
    ConvolutionWeightQuantizer,
    DepthwiseWeightQuantizer,
    FixedRangeQuantizer,
    PerTensorTransposeWeightQuantizer,
    PerTensorWeightQuantizer,
    TransposeWeightQuantizer,
    activation_quantizer,
)

layers = keras.layers


WEIGHT_QUANTIZERS = {
    layers.Conv2D: ConvolutionWeightQuantizer,
    layers.DepthwiseConv2D: DepthwiseWeightQuantizer,
    layers.Conv2DTranspose: TransposeWeightQuantizer,
}

PASS_THROUGH = (
    layers.Resizing,
    layers.UpSampling2D,
    layers.MaxPooling2D,
    layers.AveragePooling2D,
    layers.ZeroPadding2D,
    layers.Cropping2D,
    layers.Reshape,
    layers.Dropout,
    graph_layers.AlignedResizing,
    graph_layers.StridedSlice,
)
"""Layers whose integer operator keeps the range of its input."""

ONE_SCALE = (layers.Concatenate, layers.Maximum, layers.Minimum)
"""Layers whose integer operator has one scale for all inputs and the output."""

OWN_RANGE = (
    *ONE_SCALE,
    layers.Add,
    layers.Multiply,
    layers.GlobalAveragePooling2D,
    layers.BatchNormalization,
    layers.ReLU,
    layers.LeakyReLU,
    layers.Activation,
    layers.Subtract,
    layers.Softmax,
    layers.PReLU,
    layers.Rescaling,
    graph_layers.HardSwish,
    graph_layers.ReduceMean,
    graph_layers.ElementwiseConstant,
    graph_layers.Clip,
    graph_layers.ChannelLimit,
)

_KNOWN = (*WEIGHT_QUANTIZERS, *PASS_THROUGH, *OWN_RANGE)
"""Compared by exact type: subclasses may compute something else."""


def fusable_relu(
    max_value: float | None, negative_slope: float | None, *, threshold: float | None
) -> bool:
    """Returns whether a ReLU is RELU or RELU6, which fuse into the preceding operator.

    TFLite also has RELU_0_TO_1, but the converter does not use it for a ReLU with a limit of 1.

    Args:
        max_value: the limit, None for no limit.
        negative_slope: None or 0 for none.
        threshold: None or 0 for none.
    """
    return (max_value is None or max_value == 6) and not negative_slope and not threshold


def _is_fusable(layer: keras.layers.Layer) -> bool:
    return fusable_relu(layer.max_value, layer.negative_slope, threshold=layer.threshold)


def integer_form(layer: keras.layers.Layer) -> keras.layers.Layer:
    """Copies a layer in a form that consists of operators with integer kernels.

    Args:
        layer: any layer; only ReLUs that do not fuse are changed.

    Returns:
        A layer with the same function and name.
    """
    if type(layer) is not layers.ReLU or _is_fusable(layer):
        return type(layer).from_config(layer.get_config())
    limit = layer.max_value
    return graph_layers.IntegerReLU(
        max_value=None if limit is None else float(limit),
        negative_slope=float(layer.negative_slope),
        threshold=float(layer.threshold),
        name=layer.name,
    )


def _why_unknown(layer: keras.layers.Layer) -> str:
    """Describes why a layer is not quantized; "" for a layer that the scheme knows."""
    if type(layer) not in _KNOWN:
        return type(layer).__name__
    if type(layer) is layers.ReLU and layer.negative_slope and layer.threshold:
        return "ReLU with a slope and a threshold"
    if type(layer) is layers.Rescaling and np.any(layer.offset) and np.any(layer.scale != 1):
        return "Rescaling with a scale and an offset"  # two operators, no range between them
    return ""


def fused_into_next(layer: keras.layers.Layer, follower: keras.layers.Layer) -> bool:
    """Returns whether the converter fuses a layer and its follower into one integer operator."""
    if type(follower) is layers.BatchNormalization:
        return type(layer) in WEIGHT_QUANTIZERS
    if type(follower) is layers.Activation:
        if follower.activation.__name__ not in ("relu", "relu6", "linear"):
            return False
    elif type(follower) is not layers.ReLU or not _is_fusable(follower):
        return False
    return type(layer) in (*WEIGHT_QUANTIZERS, layers.BatchNormalization, layers.Add)


@dataclasses.dataclass(frozen=True)
class LayerPlan:
    """The tensors of a layer that are quantized.

    Attributes:
        weights: whether its kernel is quantized.
        output: whether its output has its own range.
    """

    weights: bool
    output: bool


def plan_layers(model: keras.Model) -> dict[str, LayerPlan]:
    """Plans the quantization of each layer.

    Nothing is quantized in a layer that the scheme does not know (`unknown_layers`).

    Args:
        model: flat Functional model.

    Returns:
        {layer name: plan}.
    """
    outputs = {id(tensor) for tensor in model.outputs}
    plans = {}
    for layer in model.layers:
        if type(layer) is layers.InputLayer:
            continue
        known = not _why_unknown(layer)
        plans[layer.name] = LayerPlan(
            weights=type(layer) in WEIGHT_QUANTIZERS,
            output=known and _needs_own_range(layer, id(layer.output) in outputs),
        )
    return plans


def unknown_layers(model: keras.Model) -> dict[str, str]:
    """Returns {layer name: description} of layers that are not quantized, in model order."""
    return {
        layer.name: why
        for layer in model.layers
        if type(layer) is not layers.InputLayer and (why := _why_unknown(layer))
    }


def check_trainable(model: keras.Model) -> None:
    """Checks that the scheme knows all layers, before a long training.

    Args:
        model: flat Functional model.

    Raises:
        ValueError: a layer that the scheme does not know; the message names it.
    """
    for name, kind in unknown_layers(model).items():
        raise ValueError(
            f"layer {name!r} ({kind}) cannot be trained quantization-aware; supported: "
            + ", ".join(sorted(kind.__name__ for kind in _KNOWN))
        )


def _needs_own_range(layer: keras.layers.Layer, is_output: bool) -> bool:
    if type(layer) in PASS_THROUGH:
        return False
    followers = [node.outbound_layer for node in layer.outbound_nodes]
    if is_output or not followers:
        return True
    if len(followers) == 1 and fused_into_next(layer, followers[0]):
        return False
    return not all(_ends_in_one_scale(follower) for follower in followers)


def _ends_in_one_scale(layer: keras.layers.Layer) -> bool:
    """Returns whether a layer passes its input's range on to a layer of ONE_SCALE."""
    if type(layer) in ONE_SCALE:
        return True
    followers = [node.outbound_layer for node in layer.outbound_nodes]
    return type(layer) in PASS_THROUGH and len(followers) == 1 and _ends_in_one_scale(followers[0])


class PlannedConfig(tfmot_config.QuantizeConfig):
    """A LayerPlan in the form of tfmot.

    Args:
        weight_kind: class name of a layer whose kernel is quantized, or None.
        output: whether the output has a range.
        per_channel: whether the kernel has one range per channel or one for all (legacy
            accelerators).
    """

    def __init__(self, weight_kind: str | None, output: bool, *, per_channel: bool = True) -> None:
        self.weight_kind, self.output, self.per_channel = weight_kind, output, per_channel

    def _kernel_name(self) -> str:
        return "depthwise_kernel" if self.weight_kind == "DepthwiseConv2D" else "kernel"

    def _weight_quantizer(self) -> tfmot_quantizers.LastValueQuantizer:
        assert self.weight_kind is not None
        if not self.per_channel:
            transpose = self.weight_kind == "Conv2DTranspose"
            return PerTensorTransposeWeightQuantizer() if transpose else PerTensorWeightQuantizer()
        kinds = {kind.__name__: quantizer for kind, quantizer in WEIGHT_QUANTIZERS.items()}
        return kinds[self.weight_kind]()

    def get_weights_and_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[tuple[tf.Variable, tfmot_quantizers.Quantizer]]:
        """Returns the kernel and its quantizer, if it is quantized."""
        if self.weight_kind is None:
            return []
        return [(getattr(layer, self._kernel_name()), self._weight_quantizer())]

    def get_activations_and_quantizers(
        self, layer: keras.layers.Layer
    ) -> list[tuple[Any, tfmot_quantizers.Quantizer]]:
        """Returns nothing: activations are layers of their own."""
        return []

    def set_quantize_weights(
        self, layer: keras.layers.Layer, quantize_weights: Sequence[tf.Tensor]
    ) -> None:
        """Replaces the kernel by its quantized value."""
        if self.weight_kind is not None:
            setattr(layer, self._kernel_name(), quantize_weights[0])

    def set_quantize_activations(
        self, layer: keras.layers.Layer, quantize_activations: Sequence[Any]
    ) -> None:
        """Does nothing: activations are layers of their own."""
        del layer, quantize_activations  # AutoGraph cannot transform a body without a statement

    def get_output_quantizers(self, layer: keras.layers.Layer) -> list[tfmot_quantizers.Quantizer]:
        """Returns the quantizer of the output, if it has its own range."""
        return [activation_quantizer()] if self.output else []

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return {
            "weight_kind": self.weight_kind,
            "output": self.output,
            "per_channel": self.per_channel,
        }


def config_for(
    layer: keras.layers.Layer, plan: LayerPlan, *, per_channel: bool = True
) -> PlannedConfig:
    """Converts the plan of a layer to the form of tfmot; warns about an unknown layer.

    Args:
        layer: the layer.
        plan: its plan.
        per_channel: whether the kernel has one range per channel or one for all.

    Returns:
        The configuration.
    """
    if why := _why_unknown(layer):
        logging.warning(
            "layer %r (%s) is not known to the quantization scheme and is not quantized",
            layer.name,
            why,
        )
    return PlannedConfig(
        type(layer).__name__ if plan.weights else None, plan.output, per_channel=per_channel
    )


class _FixedInputRange(transforms.Transform):
    """Rewrites InputLayer to InputLayer -> QuantizeLayer with the range of the preprocessing."""

    def __init__(self, input_range: tuple[float, float]) -> None:
        self._range = input_range

    def pattern(self) -> transforms.LayerPattern:
        return transforms.LayerPattern("InputLayer")

    def replacement(self, match_layer: transforms.LayerNode) -> transforms.LayerNode:
        layer = quantize_layer.QuantizeLayer(
            FixedRangeQuantizer(*self._range), name="quantize_image"
        )
        config = keras.utils.legacy.serialize_keras_object(layer)
        config["name"] = layer.name
        return transforms.LayerNode(config, input_layers=[match_layer])

    def custom_objects(self) -> dict[str, Any]:
        return custom_objects()


class _Transform(quantize_layout_transform.QuantizeLayoutTransform):
    """Applies `_FixedInputRange` alone."""

    def __init__(self, input_range: tuple[float, float]) -> None:
        self._range = input_range

    def apply(
        self, model: keras.Model, layer_quantize_map: dict[str, Any]
    ) -> tuple[keras.Model, dict[str, Any]]:
        return model_transformer.ModelTransformer(
            model,
            [_FixedInputRange(self._range)],
            set(layer_quantize_map) | {model.input_names[0]},
            layer_quantize_map,
        ).transform()


class FixedInputScheme(quantize_scheme.QuantizeScheme):
    """tfmot scheme that only fixes the range of the input: the plan decides everything else."""

    def __init__(self, input_range: tuple[float, float]) -> None:
        self._range = input_range

    def get_layout_transformer(self) -> _Transform:
        """Returns the transformation that adds the input's range."""
        return _Transform(self._range)

    def get_quantize_registry(
        self,
    ) -> default_8bit_quantize_registry.Default8BitQuantizeRegistry:
        """Returns tfmot's registry, which is not used for planned layers."""
        return default_8bit_quantize_registry.Default8BitQuantizeRegistry()


def custom_objects() -> dict[str, Any]:
    """Returns the objects that Keras needs to clone a quantization-aware model of this scheme."""
    return {
        "PlannedConfig": PlannedConfig,
        "FixedRangeQuantizer": FixedRangeQuantizer,
        "QuantizeLayer": quantize_layer.QuantizeLayer,
    }

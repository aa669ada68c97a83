"""Layers for operators of imported networks that no stock Keras layer computes.

Each layer is registered and has only JSON settings and, where needed, a constant that is saved as
a weight. The converter turns each layer into the operator that it was imported from.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf
import tf_keras as keras

from deeplab_tf.graph.functions import FUNCTIONS

_register = keras.utils.register_keras_serializable(package="deeplab_tf")


@_register
class AlignedResizing(keras.layers.Layer):
    """Resizes with a convention that `keras.layers.Resizing` (half-pixel centers) lacks.

    Source coordinate of output row i:

        align_corners   i * (in - 1) / (out - 1)
        legacy          i * in / out
        half_pixel      (i + 0.5) * in / out - 0.5

    Args:
        height: height of the output.
        width: width of the output.
        interpolation: "bilinear" or "nearest".
        alignment: "align_corners", "legacy" or "half_pixel".
    """

    def __init__(
        self, height: int, width: int, *, interpolation: str, alignment: str, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.height, self.width = height, width
        self.interpolation, self.alignment = interpolation, alignment

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, h, w, channels] -> float32 [batch, height, width, channels]."""
        bilinear = self.interpolation == "bilinear"
        resize = tf.raw_ops.ResizeBilinear if bilinear else tf.raw_ops.ResizeNearestNeighbor
        return resize(
            images=inputs,
            size=[self.height, self.width],
            align_corners=self.alignment == "align_corners",
            half_pixel_centers=self.alignment == "half_pixel",
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "height": self.height,
            "width": self.width,
            "interpolation": self.interpolation,
            "alignment": self.alignment,
        }


@_register
class HardSwish(keras.layers.Layer):
    """Computes x * relu6(x + 3) / 6 (Howard et al. 2019, MobileNetV3, arXiv:1905.02244)."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 of any shape -> float32 of the same shape."""
        return inputs * tf.nn.relu6(inputs + 3.0) * (1.0 / 6.0)


@_register
class Clip(keras.layers.Layer):
    """Limits values to the range from `minimum` to `maximum`."""

    def __init__(self, minimum: float, maximum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.minimum, self.maximum = minimum, maximum

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 of any shape -> float32 of the same shape."""
        return tf.minimum(tf.maximum(inputs, self.minimum), self.maximum)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"minimum": self.minimum, "maximum": self.maximum}


@_register
class IntegerReLU(keras.layers.Layer):
    """Computes `keras.layers.ReLU` with operators that have integer kernels.

        x > threshold:   max(0, min(x, max_value))
        elsewhere:       0, or negative_slope * x with a threshold of 0

    Keras composes a limit from RELU, MINIMUM and RELU, and a threshold from GREATER, CAST and
    MUL. Tensors inside a layer have no range, so the converter keeps operators float that need
    one. MINIMUM, RELU and SELECT_V2 keep the scale of their input; LEAKY_RELU comes last and
    takes the range of the layer's output.

    Args:
        max_value: upper limit, or None.
        negative_slope: slope below 0; must be 0 where there is a threshold.
        threshold: values up to it become 0; must be 0 where there is a slope.
    """

    def __init__(
        self,
        max_value: float | None = None,
        negative_slope: float = 0.0,
        *,
        threshold: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if negative_slope and threshold:
            raise ValueError(
                f"a slope ({negative_slope}) and a threshold ({threshold}) have no integer form"
            )
        self.max_value, self.negative_slope = max_value, negative_slope
        self.threshold = threshold

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 of any shape -> float32 of the same shape."""
        if self.threshold:
            passed = tf.where(inputs > self.threshold, inputs, tf.zeros_like(inputs))
            return passed if self.max_value is None else self._clipped(passed)
        if not self.negative_slope:
            return tf.nn.relu(inputs) if self.max_value is None else self._clipped(inputs)
        if self.max_value is not None:
            inputs = tf.minimum(inputs, self.max_value)
        return tf.nn.leaky_relu(inputs, self.negative_slope)

    def _clipped(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(inputs, 0.0, self.max_value)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "max_value": self.max_value,
            "negative_slope": self.negative_slope,
            "threshold": self.threshold,
        }


@_register
class ArgMax(keras.layers.Layer):
    """Returns the index of the largest value along `axis`, the first of equal ones; no gradient."""

    def __init__(self, axis: int, output_type: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis, self.output_type = axis, output_type

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """A tensor -> `output_type`, without the axis."""
        return tf.argmax(inputs, self.axis, output_type=self.output_type)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"axis": self.axis, "output_type": self.output_type}


@_register
class Cast(keras.layers.Layer):
    """Converts values to another dtype; fractions are truncated."""

    def __init__(self, target: str, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.target = target

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """A tensor of any dtype -> `target`, same shape."""
        return tf.cast(inputs, self.target)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        config.pop("autocast", None)
        return config | {"target": self.target}


@_register
class ReduceMean(keras.layers.Layer):
    """Computes the mean over axes other than the batch.

    For the mean over height and width use GlobalAveragePooling2D.
    """

    def __init__(self, axes: Sequence[int], keepdims: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axes, self.keepdims = tuple(axes), keepdims

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, ...] -> float32, the mean over the axes."""
        return tf.reduce_mean(inputs, self.axes, keepdims=self.keepdims)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"axes": list(self.axes), "keepdims": self.keepdims}


@_register
class Reduce(keras.layers.Layer):
    """Computes the sum, maximum or minimum over axes other than the batch.

    Args:
        operation: "sum", "max" or "min".
        axes: the axes.
        keepdims: whether they stay with length 1.
    """

    def __init__(
        self, operation: str, axes: Sequence[int], *, keepdims: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if operation not in ("sum", "max", "min"):
            raise ValueError(f"operation must be sum, max or min; got {operation!r}")
        self.operation, self.axes, self.keepdims = operation, tuple(axes), keepdims

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, ...] -> float32, reduced over the axes."""
        reduce = {"sum": tf.reduce_sum, "max": tf.reduce_max, "min": tf.reduce_min}
        return reduce[self.operation](inputs, self.axes, keepdims=self.keepdims)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "operation": self.operation,
            "axes": list(self.axes),
            "keepdims": self.keepdims,
        }


@_register
class Gather(keras.layers.Layer):
    """Takes values by their indices along an axis after the batch.

    Args:
        indices: which; a single integer drops the axis.
        axis: along which.
    """

    def __init__(self, indices: Sequence[int] | int, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.indices, self.axis = indices, axis

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, ...] -> float32, the axis as long as there are indices."""
        return tf.gather(inputs, self.indices, axis=self.axis)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"indices": self.indices, "axis": self.axis}


@_register
class Stack(keras.layers.Layer):
    """Stacks tensors of one shape along a new axis after the batch."""

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Tensors [batch, ...] -> one tensor with one more axis."""
        return tf.stack(inputs if isinstance(inputs, list | tuple) else [inputs], self.axis)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"axis": self.axis}


@_register
class StridedSlice(keras.layers.Layer):
    """Computes x[:, begin:end:stride, ...] for every axis after the batch.

    Args:
        slices: [begin, end, stride] per axis; None means from the first or to the last value.
        dropped: axes (batch = 0) of length 1 to drop afterwards.
    """

    def __init__(
        self,
        slices: Sequence[Sequence[int | None]],
        dropped: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.slices, self.dropped = [tuple(item) for item in slices], tuple(dropped)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """A tensor [batch, ...] -> its slice, without the dropped axes."""
        index = (slice(None), *(slice(*item) for item in self.slices))
        taken = inputs[index]
        return tf.squeeze(taken, self.dropped) if self.dropped else taken

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "slices": [list(item) for item in self.slices],
            "dropped": list(self.dropped),
        }


@_register
class Padding(keras.layers.Layer):
    """Pads any axis after the batch, with a value or with the values at its border.

    For zeros around an image use ZeroPadding2D.

    Args:
        paddings: [before, after] per axis after the batch.
        mode: "constant"; "reflect" mirrors without the border itself, "symmetric" with it.
        value: of what is added in the constant mode.
    """

    def __init__(
        self,
        paddings: Sequence[Sequence[int]],
        mode: str = "constant",
        *,
        value: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if mode not in ("constant", "reflect", "symmetric"):
            raise ValueError(f"mode must be constant, reflect or symmetric; got {mode!r}")
        self.paddings, self.mode, self.value = [list(pair) for pair in paddings], mode, value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, ...] -> float32, each axis longer by its padding."""
        return tf.pad(inputs, [[0, 0], *self.paddings], self.mode, constant_values=self.value)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "paddings": self.paddings,
            "mode": self.mode,
            "value": self.value,
        }


@_register
class PoolArgMax(keras.layers.Layer):
    """Finds where in its window a max pool found its value: row * width + column of the window.

    Of equal values the first counts. MediaPipe's MaxPoolingWithArgmax2D stores the place as a
    float, 0.1 above the integer, so that rounding down is safe.

    Args:
        pool_size: (height, width) of the window, which are also the strides.
    """

    def __init__(self, pool_size: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = tuple(pool_size)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [batch, h, w, channels] -> float32 [batch, h / rows, w / columns, channels]."""
        _, height, width, channels = inputs.shape
        rows, columns = self.pool_size
        windows = tf.reshape(
            inputs, (-1, height // rows, rows, width // columns, columns, channels)
        )
        windows = tf.reshape(
            tf.transpose(windows, (0, 1, 3, 2, 4, 5)),
            (-1, height // rows, width // columns, rows * columns, channels),
        )
        return tf.cast(tf.argmax(windows, axis=3), tf.float32) + 0.1

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"pool_size": list(self.pool_size)}


@_register
class MaxUnpool(keras.layers.Layer):
    """Puts each value where a max pool found it in its window, and zeros elsewhere.

    Args:
        pool_size: (height, width) of the window, which are also the strides.
    """

    def __init__(self, pool_size: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pool_size = tuple(pool_size)

    def call(self, inputs: Sequence[tf.Tensor]) -> tf.Tensor:
        """Values and their places, float32 [batch, h, w, c] -> float32 [batch, H, W, c]."""
        values, places = inputs
        _, height, width, channels = values.shape
        rows, columns = self.pool_size
        here = tf.range(rows * columns, dtype=tf.float32)[:, None]
        chosen = tf.cast(tf.equal(tf.floor(places)[..., None, :], here), tf.float32)
        windows = tf.reshape(
            values[..., None, :] * chosen, (-1, height, width, rows, columns, channels)
        )
        return tf.reshape(
            tf.transpose(windows, (0, 1, 3, 2, 4, 5)),
            (-1, height * rows, width * columns, channels),
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"pool_size": list(self.pool_size)}


@_register
class ElementwiseConstant(keras.layers.Layer):
    """Computes x + constant or x * constant; the constant is a weight of a broadcastable shape."""

    def __init__(self, operation: str, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.operation, self.shape = operation, tuple(shape)
        if operation not in ("add", "multiply"):
            raise ValueError(f"operation must be add or multiply; got {operation!r}")

    def build(self, input_shape: Any) -> None:
        """Adds the constant as a weight."""
        initial = "zeros" if self.operation == "add" else "ones"
        self.constant = self.add_weight("constant", self.shape, initializer=initial)
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 of any shape -> float32 of the broadcast shape."""
        return inputs + self.constant if self.operation == "add" else inputs * self.constant

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"operation": self.operation, "shape": list(self.shape)}


@_register
class SimulatedQuantization(keras.layers.Layer):
    """Rounds to the values that an integer tensor can hold, as XNNPACK's kernels round.

        real = scale * (quantized - zero_point), quantized_min <= quantized <= quantized_max

    Some networks amplify a difference of one step layer by layer, so the rounding of ties
    matters. The fake-quant operators of tf.quantization derive scale and zero point from a range;
    here they are used as given. Where the sums of the integer kernel are known to be integer
    multiples of `accumulator_scale`, they are recovered from the float value:

        quantized - zero_point = round_half_even(float32(sum) * multiplier)

    Where a float tensor is quantized, it is round_half_even(value * inverse_scale). With
    `half_away` the value is the mean of integers including their zero point, rounded to nearest
    with halves away from zero. Otherwise halves are rounded up. The gradient is 1 inside the
    range and 0 outside.

    Args:
        scale: scale of the tensor.
        zero_point: zero point of the tensor.
        quantized_min: smallest integer of the tensor.
        quantized_max: largest integer of the tensor.
        accumulator_scale: scale of the sums, one value or one per channel; None where unknown.
        multiplier: accumulator_scale / scale as the kernel stores it, float32.
        half_up: whether halves are rounded up where the accumulator is known.
        inverse_scale: 1 / scale, float32, for a tensor that the file quantizes from float.
        half_away: whether the value is a mean of integers with the same scale and zero point.
        copied: (scale, zero point) of an input whose integers the kernel copies unchanged, even
            though the output gives them another meaning.
        addend: {input_scale, multiplier, offset, terms} of a fixed-point sum with a constant:
            `offset` is the real constant and `terms` what it adds to the output's integers, both
            one value or one per channel.
    """

    def __init__(
        self,
        scale: float,
        zero_point: int,
        *,
        quantized_min: int,
        quantized_max: int,
        accumulator_scale: float | list[float] | None = None,
        multiplier: float | list[float] | None = None,
        half_up: bool = False,
        inverse_scale: float | None = None,
        half_away: bool = False,
        copied: Sequence[float] | None = None,
        addend: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(autocast=False, **kwargs)
        self.scale, self.zero_point = scale, zero_point
        self.quantized_min, self.quantized_max = quantized_min, quantized_max
        self.accumulator_scale, self.multiplier = accumulator_scale, multiplier
        self.half_up, self.inverse_scale = half_up, inverse_scale
        self.half_away, self.copied, self.addend = half_away, copied, addend

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 or float64 of any shape -> float32."""
        steps = tf.clip_by_value(
            tf.cast(self._steps(inputs), tf.float32),
            float(self.quantized_min - self.zero_point),
            float(self.quantized_max - self.zero_point),
        )
        real = tf.constant(self.scale, tf.float32) * steps
        low, high = (self.scale * (end - self.zero_point) for end in self._ends)
        passed = tf.clip_by_value(tf.cast(inputs, tf.float32), low, high)
        return passed + tf.stop_gradient(real - passed)

    def _steps(self, inputs: tf.Tensor) -> tf.Tensor:
        """Computes quantized - zero_point before it is clipped to the type's range."""
        if self.inverse_scale is not None:
            return tf.round(tf.cast(inputs, tf.float32) * self.inverse_scale)
        exact = tf.cast(inputs, tf.float64)
        if self.addend is not None:
            offset, terms = (
                tf.constant(self.addend[key], tf.float64) for key in ("offset", "terms")
            )
            steps = tf.round((exact - offset) / self.addend["input_scale"])
            sums = tf.floor(steps * self.addend["multiplier"] + terms + 0.5)
            return tf.where(exact == 0, tf.minimum(sums, 0), sums)  # what a ReLU set to 0 stays 0
        if self.copied is not None:
            scale, zero_point = self.copied
            quantized = tf.floor(tf.round(exact / scale * 4096) / 4096 + 0.5) + zero_point
            return quantized - self.zero_point
        if self.half_away:
            # A mean k / n of n <= 4096 values is a tie, or at least 1 / (2n) away from one.
            mean = tf.round(exact / self.scale * 2**14) / 2**14 + self.zero_point
            return tf.sign(mean) * tf.floor(tf.abs(mean) + 0.5) - self.zero_point
        if self.accumulator_scale is None:
            # float32 errors reach 2^-14 steps: rounding to a grid of 2^-12 restores exact ties.
            return tf.floor(tf.round(exact / self.scale * 4096) / 4096 + 0.5)
        sums = tf.round(exact / tf.constant(self.accumulator_scale, tf.float64))
        steps = tf.cast(sums, tf.float32) * tf.constant(self.multiplier, tf.float32)
        return tf.floor(steps + 0.5) if self.half_up else tf.round(steps)

    @property
    def _ends(self) -> tuple[int, int]:
        return self.quantized_min, self.quantized_max

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        config = super().get_config()
        config.pop("autocast", None)
        return config | {
            "scale": self.scale,
            "zero_point": self.zero_point,
            "quantized_min": self.quantized_min,
            "quantized_max": self.quantized_max,
            "accumulator_scale": self.accumulator_scale,
            "multiplier": self.multiplier,
            "half_up": self.half_up,
            "inverse_scale": self.inverse_scale,
            "half_away": self.half_away,
            "copied": self.copied,
            "addend": self.addend,
        }


@_register
class SimulatedAdd(keras.layers.Layer):
    """Adds or subtracts two quantized tensors as XNNPACK's fixed-point kernel does.

        (quantized - zero_point) of the sum = floor(sum_i steps_i * multiplier_i + 1/2)

    Args:
        input_scales: scales of both inputs.
        multipliers: input scale / output scale with 21 significant bits; negative to subtract.
        scale: scale of the output.
    """

    def __init__(
        self,
        input_scales: Sequence[float],
        multipliers: Sequence[float],
        *,
        scale: float,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_scales, self.multipliers = list(input_scales), list(multipliers)
        self.scale = scale

    def call(self, inputs: list[tf.Tensor] | tuple[tf.Tensor, ...]) -> tf.Tensor:
        """Two float32 tensors that broadcast -> float32."""
        terms = [
            tf.round(tf.cast(value, tf.float64) / scale) * multiplier
            for value, scale, multiplier in zip(
                inputs, self.input_scales, self.multipliers, strict=True
            )
        ]
        exact = tf.cast(self.scale * tf.floor(terms[0] + terms[1] + 0.5), tf.float32)
        signs = [1.0 if multiplier > 0 else -1.0 for multiplier in self.multipliers]
        plain = signs[0] * inputs[0] + signs[1] * inputs[1]
        return plain + tf.stop_gradient(exact - plain)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "input_scales": self.input_scales,
            "multipliers": self.multipliers,
            "scale": self.scale,
        }


@_register
class SimulatedTable(keras.layers.Layer):
    """Looks up a kernel's output for each 8-bit input value.

        real = scale * (table[round(input / input_scale) + input_offset] - zero_point)

    The gradient is the slope between the neighbors in the table.

    Args:
        input_scale: scale of the input.
        input_offset: zero point of the input minus the smallest value of its type.
        scale: scale of the output.
        zero_point: zero point of the output.
        table: 256 output values, starting with that of the smallest input value.
    """

    def __init__(
        self,
        input_scale: float,
        input_offset: int,
        *,
        scale: float,
        zero_point: int,
        table: Sequence[int],
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_scale, self.input_offset = input_scale, input_offset
        self.scale, self.zero_point, self.table = scale, zero_point, list(table)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 of any shape -> float32."""
        steps = tf.constant([float(value - self.zero_point) for value in self.table])
        neighbors = tf.pad(steps, [[1, 1]], "SYMMETRIC")
        slopes = (neighbors[2:] - neighbors[:-2]) * (self.scale / (2 * self.input_scale))
        index = tf.cast(tf.round(inputs / self.input_scale), tf.int32) + self.input_offset
        index = tf.clip_by_value(index, 0, len(self.table) - 1)
        exact = tf.constant(self.scale, tf.float32) * tf.gather(steps, index)
        return exact + tf.gather(slopes, index) * (inputs - tf.stop_gradient(inputs))

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {
            "input_scale": self.input_scale,
            "input_offset": self.input_offset,
            "scale": self.scale,
            "zero_point": self.zero_point,
            "table": self.table,
        }


@_register
class SimulatedSoftmax(keras.layers.Layer):
    """Computes a softmax over the last axis from a table of exponentials, as built-in kernels do.

        quantized - zero_point = floor(e_i * (1 / (sum e * scale)) + 1/2), all in float32

    Args:
        input_scale: scale of the logits; their differences are integer multiples of it.
        scale: scale of the probabilities.
    """

    def __init__(self, input_scale: float, scale: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_scale, self.scale = input_scale, scale

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [..., classes] -> float32 [..., classes]."""
        steps = tf.cast(tf.round(inputs / self.input_scale), tf.int32)
        below = tf.clip_by_value(tf.reduce_max(steps, -1, keepdims=True) - steps, 0, 255)
        exponents = -tf.range(256, dtype=tf.float64) * self.input_scale
        powers = tf.gather(tf.cast(tf.exp(exponents), tf.float32), below)
        total = tf.zeros_like(powers[..., 0])
        for power in tf.unstack(powers, axis=-1):  # float32 sums depend on their order
            total += power
        inverse = 1.0 / (total * tf.constant(self.scale, tf.float32))
        exact = self.scale * tf.floor(powers * inverse[..., None] + 0.5)
        plain = tf.nn.softmax(inputs)
        return plain + tf.stop_gradient(exact - plain)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"input_scale": self.input_scale, "scale": self.scale}


@_register
class ChannelLimit(keras.layers.Layer):
    """Computes min(max(x, 0), limit) with one limit per channel.

    It replaces a ReLU6 whose channels were scaled by different factors.

    Args:
        channels: number of channels of the input.
    """

    def __init__(self, channels: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels

    def build(self, input_shape: Any) -> None:
        """Adds the limits as a weight."""
        self.limit = self.add_weight(
            "limit", (self.channels,), initializer=keras.initializers.Constant(6.0), trainable=False
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """float32 [..., channels] -> float32 of the same shape."""
        return tf.minimum(tf.nn.relu(inputs), self.limit)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        return super().get_config() | {"channels": self.channels}


@_register
class TensorFunction(keras.layers.Layer):
    """Applies a registered function to its inputs and to constants that are saved as weights.

    Args:
        function: name in `deeplab_tf.graph.functions.FUNCTIONS`.
        constants: [slot, shape] of each operand that is constant; weight "constant<slot>".
    """

    def __init__(self, function: str, constants: list | tuple = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function, self.constants = function, [(slot, tuple(s)) for slot, s in constants]
        if function not in FUNCTIONS:
            raise ValueError(f"expected one of {', '.join(sorted(FUNCTIONS))}; got {function!r}")

    def build(self, input_shape: Any) -> None:
        """Adds the constant operands as weights."""
        for slot, shape in self.constants:
            self.add_weight(f"constant{slot}", shape, trainable=False)
        super().build(input_shape)

    def call(self, inputs: Any) -> tf.Tensor:
        """Tensors that broadcast -> float32 of the function's shape."""
        operands = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        for (slot, _), weight in zip(self.constants, self.weights, strict=True):
            operands.insert(slot, weight)
        return FUNCTIONS[self.function](*operands)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments of the constructor."""
        constants = [[slot, list(shape)] for slot, shape in self.constants]
        return super().get_config() | {"function": self.function, "constants": constants}

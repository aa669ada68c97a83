"""Mixed precision: chosen operators of an int8 `.tflite` compute in float32 or in 16x8 bits.

    int8 -> CONV_2D -> int8   becomes   int8 -> DEQUANTIZE -> CONV_2D (float) -> QUANTIZE -> int8
                                or      int8 -> QUANTIZE -> CONV_2D (16x8) -> QUANTIZE -> int8

Between two operators of the same precision nothing is rounded to 8 bits. The weights of a float
operator are the network's own float weights, not the rounded ones; a 16x8 operator keeps its int8
weights. All other operators stay as they are.
"""

import difflib
import enum
from collections.abc import Mapping

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.graph.kernels import bias_key, kernel_key
from deeplab_tf.graph.network import CONVOLUTIONS, Node
from deeplab_tf.quantization.ptq.post_training import PostTrained
from deeplab_tf.quantization.ptq.sensitivity import find_units, units_named
from deeplab_tf.quantization.qat.apply import WRAPPER_PREFIX
from tflite_tools.flatbuffer.editor import Editor, symmetric
from tflite_tools.flatbuffer.graph_checks import LEFT_OUT
from tflite_tools.flatbuffer.operators import OPERATORS, OperatorTraits, traits

_LARGEST_INT16 = 32767
_FloatWeights = Mapping[int, tuple[np.ndarray, np.ndarray | None]]


class Precision(enum.Enum):
    """Number format that an operator computes in."""

    FLOAT32 = "float32"
    """float32 weights and activations."""
    INT16X8 = "int16x8"
    """Symmetric 16-bit activations, int8 weights, int64 bias."""


def layer_positions(content: bytes) -> dict[str, int]:
    """Returns {layer that is named in an output tensor: first such operator's position}.

    Args:
        content: the `.tflite`.
    """
    editor = Editor(content)
    positions: dict[str, int] = {}
    for position, operator in enumerate(editor.operators()):
        for token in editor.name(operator.outputs[0]).split(";"):
            for part in token.split("/"):
                positions.setdefault(part.removeprefix(WRAPPER_PREFIX), position)
    return positions


def find_layers(content: bytes, names: list[str]) -> dict[str, int]:
    """Finds the operator that computes each named Keras layer.

    A tensor's name holds the names of all layers that were fused into its operator.

    Args:
        content: the `.tflite`.
        names: Keras layers.

    Returns:
        {name: operator position}.

    Raises:
        ValueError: the file has no operator of its own for a layer; the message names similar ones.
    """
    positions = layer_positions(content)
    for name in names:
        if name not in positions:
            near = difflib.get_close_matches(name, positions, 3, 0.5)
            raise ValueError(
                f"no operator of the file computes layer {name!r}"
                + (f"; near: {', '.join(near)}" if near else "")
            )
    return {name: positions[name] for name in names}


def apply_mixed_precision(
    content: bytes, done: PostTrained, *, keep_float: tuple[str, ...], int16: tuple[str, ...]
) -> bytes:
    """Rewrites a file so that named layers compute in more than 8 bits.

    Args:
        content: the int8 `.tflite`.
        done: the network that the file was made from; gives the float weights.
        keep_float: layers in float32: names of units or of their nodes
            (`sensitivity.units_named`).
        int16: layers with 16-bit activations, likewise.

    Returns:
        the new file.

    Raises:
        ValueError: a layer is no operator of its own, or has no such kernel.
    """
    units = find_units(done.description, done.arrays)
    floats, wide = (
        [unit.layers[0] for unit in units_named(units, names)] for names in (keep_float, int16)
    )
    positions = find_layers(content, [*floats, *wide])
    precisions = {positions[name]: Precision.FLOAT32 for name in floats}
    precisions |= {positions[name]: Precision.INT16X8 for name in wide}
    weights = {
        positions[node.name]: (
            _file_layout(node, done.arrays[kernel_key(node)]),
            done.arrays.get(bias_key(node)),
        )
        for node in done.description.nodes
        if node.name in floats and node.kind in CONVOLUTIONS
    }
    return set_precision(content, precisions, weights=weights)


def mixed_precision_positions(
    content: bytes, done: PostTrained, *, keep_float: tuple[str, ...], int16: tuple[str, ...]
) -> dict[int, str]:
    """Lists the operators that `apply_mixed_precision` must rewrite, for the gate to check.

    Args:
        content: the int8 `.tflite`.
        done: the network that the file was made from.
        keep_float: layers in float32.
        int16: layers with 16-bit activations.

    Returns:
        {operator position in `content`: "FLOAT32" or "INT16"}.

    Raises:
        ValueError: a layer is no operator of its own.
    """
    units = find_units(done.description, done.arrays)
    types: dict[int, str] = {}
    for names, kind in ((keep_float, "FLOAT32"), (int16, "INT16")):
        layers = [unit.layers[0] for unit in units_named(units, names)]
        types |= dict.fromkeys(find_layers(content, layers).values(), kind)
    return types


def _file_layout(node: Node, kernel: np.ndarray) -> np.ndarray:
    """Brings a kernel into the layout of the file.

    [h, w, in, out], or [h, w, out, in] of a transposed convolution, becomes [out, h, w, in];
    depthwise [h, w, in, m] becomes [1, h, w, in * m].
    """
    if node.kind == "depthwise_conv2d":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    outputs = 2 if node.kind == "conv2d_transpose" else 3
    return np.moveaxis(kernel, outputs, 0)


def set_precision(
    content: bytes, precisions: Mapping[int, Precision], *, weights: _FloatWeights
) -> bytes:
    """Rewrites a file so that some operators compute in more than 8 bits.

    Args:
        content: an int8 `.tflite` with one subgraph.
        precisions: {operator position: precision}.
        weights: {position of a float convolution: (float32 kernel in the layout of the file,
            float32 bias or None)}.

    Returns:
        the new file.

    Raises:
        ValueError: an operator has no such kernel, is not int8, or lacks its float weights.
    """
    return _Rewriter(content, precisions, weights=weights).run()


class _Rewriter:
    """One rewriting; `_versions` holds the other precisions that each int8 tensor exists in."""

    def __init__(
        self, content: bytes, precisions: Mapping[int, Precision], *, weights: _FloatWeights
    ) -> None:
        self._editor = Editor(content)
        self._precisions, self._weights = precisions, weights
        self._versions: dict[tuple[int, str, float], int] = {}
        self._operators: list[schema.OperatorT] = []

    def run(self) -> bytes:
        """Returns the new file."""
        for position, operator in enumerate(self._editor.operators()):
            precision = self._precisions.get(position)
            if precision is None:
                self._operators.append(operator)
            else:
                self._rewrite(position, operator, precision=precision)
        self._editor.graph.operators = self._operators
        self._editor.drop_unread_operators()
        return self._editor.to_bytes()

    def _rewrite(self, position: int, operator: schema.OperatorT, *, precision: Precision) -> None:
        kind = self._editor.kind(operator)
        self._check(position, operator, kind=kind, precision=precision)
        row = traits(kind)
        old_output = int(operator.outputs[0])
        is_float = precision is Precision.FLOAT32
        scale = 0.0 if is_float else self._int16_scale(old_output)
        output = self._new_version(old_output, precision, scale=scale)
        inputs = []
        for index in (int(i) for i in operator.inputs):
            if index == LEFT_OUT or self._editor.is_constant(index):
                inputs.append(self._float_constant(index) if is_float else index)
            elif is_float:
                inputs.append(self._version(index, precision, scale=0.0))
            else:
                shared = scale if row.same_scale else self._int16_scale(index)
                inputs.append(self._version(index, precision, scale=shared))
        operator.inputs, operator.outputs = inputs, [output]
        if row.is_convolution:
            self._replace_weights(position, operator, precision=precision, row=row)
        if kind == "ADD" and operator.builtinOptions is not None:
            operator.builtinOptions.potScaleInt16 = False
        if not is_float:
            operator.opcodeIndex = self._editor.opcode(kind, row.int16_version or 1)
        self._operators.append(operator)
        self._convert(output, old_output)  # for 8-bit consumers; dropped where there is none

    def _check(
        self, position: int, operator: schema.OperatorT, *, kind: str, precision: Precision
    ) -> None:
        """Raises ValueError for an operator that cannot compute in that precision."""
        where = f"operator {position} ({kind} {self._editor.name(operator.outputs[0])!r})"
        known = _with_kernel(precision)
        if kind not in known:
            raise ValueError(
                f"{where} has no {precision.value} form here, expected one of {', '.join(known)}; "
                "leave it out"
            )
        if self._editor.tensor(operator.outputs[0]).type != schema.TensorType.INT8:
            raise ValueError(f"{where} is not int8; leave it out")
        if precision is Precision.INT16X8 and not traits(kind).is_convolution:
            stored = [i for i in operator.inputs if i != LEFT_OUT and self._editor.is_constant(i)]
            if any(self._editor.tensor(i).type == schema.TensorType.INT8 for i in stored):
                raise ValueError(
                    f"{where} has an int8 constant, which has no 16-bit form here; leave it out"
                )

    def _float_constant(self, index: int) -> int:
        """Adds an int8 constant as float32; sizes, axes and missing inputs stay as they are."""
        if index == LEFT_OUT or self._editor.tensor(index).type != schema.TensorType.INT8:
            return index
        return self._constant(index, self._editor.real_constant(index).astype("<f4"))

    def _int16_scale(self, index: int) -> float:
        """Returns the symmetric scale that covers the range of the tensor's 8 bits."""
        quantization = self._editor.tensor(index).quantization
        scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
        return scale * max(127 - zero_point, zero_point + 128) / _LARGEST_INT16

    def _version(self, index: int, precision: Precision, *, scale: float) -> int:
        """Returns a computed tensor in another precision, with a new conversion if needed."""
        key = (index, precision.value, scale)
        if key not in self._versions:
            source = index
            for (old, kind, _), new in self._versions.items():
                if old == index and kind == precision.value:
                    source = new  # 16 bits with another scale: do not go through 8 bits
            made = self._new_version(index, precision, scale=scale)
            self._convert(source, made)
        return self._versions[key]

    def _new_version(self, index: int, precision: Precision, *, scale: float) -> int:
        old = self._editor.tensor(index)
        is_float = precision is Precision.FLOAT32
        made = self._editor.add_tensor(
            f"{self._editor.name(index)}_{precision.value}",
            old.shape,
            kind=schema.TensorType.FLOAT32 if is_float else schema.TensorType.INT16,
            quantization=None if is_float else symmetric(scale),
            shape_signature=old.shapeSignature,
        )
        self._versions[(index, precision.value, scale)] = made
        return made

    def _convert(self, source: int, target: int) -> None:
        types = [self._editor.tensor(index).type for index in (source, target)]
        kind = "DEQUANTIZE" if types[1] == schema.TensorType.FLOAT32 else "QUANTIZE"
        row = traits(kind)
        version = row.int16_version if schema.TensorType.INT16 in types else row.version
        operator = self._editor.new_operator(kind, [source], outputs=[target], version=version)
        self._operators.append(operator)

    def _replace_weights(
        self,
        position: int,
        operator: schema.OperatorT,
        *,
        precision: Precision,
        row: OperatorTraits,
    ) -> None:
        data_slot, kernel_slot, bias_slot = row.slots
        kernel = operator.inputs[kernel_slot]
        bias = operator.inputs[bias_slot] if bias_slot < len(operator.inputs) else LEFT_OUT
        if precision is Precision.INT16X8:
            if bias != LEFT_OUT:
                data = self._editor.tensor(operator.inputs[data_slot])
                weights = self._editor.tensor(kernel)
                scales = data.quantization.scale[0] * np.asarray(
                    weights.quantization.scale, np.float64
                )
                operator.inputs[bias_slot] = self._int64_bias(bias, scales)
            return
        if position not in self._weights:
            raise ValueError(
                f"operator {position}: its float weights are not known; give them in `weights`"
            )
        values, offsets = self._weights[position]
        stored_shape = tuple(self._editor.tensor(kernel).shape)
        if stored_shape != values.shape:
            raise ValueError(
                f"operator {position}: expected a kernel of shape {list(values.shape)} as in the "
                f"float network, got {list(stored_shape)}; give the network of this file"
            )
        operator.inputs[kernel_slot] = self._constant(kernel, values.astype("<f4"))
        if bias != LEFT_OUT:
            if offsets is None:  # the converter made one of zeros
                offsets = np.zeros(int(self._editor.tensor(bias).shape[0]))
            operator.inputs[bias_slot] = self._constant(bias, offsets.astype("<f4"))

    def _int64_bias(self, bias: int, scales: np.ndarray) -> int:
        steps = np.rint(self._editor.real_constant(bias) / scales).astype("<i8")
        return self._constant(bias, steps, quantization=symmetric(scales))

    def _constant(
        self,
        like: int,
        values: np.ndarray,
        *,
        quantization: schema.QuantizationParametersT | None = None,
    ) -> int:
        return self._editor.add_constant(
            f"{self._editor.name(like)}_raised",  # part of the file's bytes: keep it
            values,
            quantization=quantization,
            shape=self._editor.tensor(like).shape,
        )


def _with_kernel(precision: Precision) -> list[str]:
    """Lists the operators that can compute in a precision inside an int8 file."""
    if precision is Precision.INT16X8:
        conversions = ("QUANTIZE", "DEQUANTIZE")
        return [k for k, row in OPERATORS.items() if row.int16_version and k not in conversions]
    return [kind for kind, row in OPERATORS.items() if row.float_kernel]

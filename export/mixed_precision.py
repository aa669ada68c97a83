"""Single operators of a finished int8 `.tflite` computed in float32 or with 16-bit activations.

    int8 -> CONV_2D -> int8   becomes   int8 -> DEQUANTIZE -> CONV_2D (float) -> QUANTIZE -> int8
                                or      int8 -> QUANTIZE -> CONV_2D (16x8) -> QUANTIZE -> int8

Between two operators of the same kind nothing is rounded to 8 bits. The weights of a float
operator are the network's own float weights, not the rounded ones; a 16-bit operator keeps its
int8 weights. All other operators stay as they are.
"""

import difflib
import enum

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from deeplab_tf.models.imported import CONVOLUTIONS, Node
from deeplab_tf.quantization.apply import WRAPPER_PREFIX
from deeplab_tf.quantization.kernels import bias_key, kernel_key
from deeplab_tf.quantization.post_training import PostTrained
from deeplab_tf.quantization.sensitivity import find_units, units_named
from export.shrink import pack

_INT16_KERNELS = (
    "CONV_2D",
    "DEPTHWISE_CONV_2D",
    "ADD",
    "CONCATENATION",
    "MEAN",
    "RESIZE_BILINEAR",
)
_FLOAT_KERNELS = (
    *_INT16_KERNELS,
    *("SUB", "MUL", "MINIMUM", "MAXIMUM", "RELU", "RELU6", "AVERAGE_POOL_2D", "MAX_POOL_2D"),
    *("SOFTMAX", "LOGISTIC", "HARD_SWISH", "LEAKY_RELU", "PRELU", "TRANSPOSE_CONV"),
)
_CONVOLUTIONS = {"CONV_2D": (1, 2), "DEPTHWISE_CONV_2D": (1, 2), "TRANSPOSE_CONV": (1, 3)}
"""Which of an operator's inputs are its kernel and its bias."""
_ONE_SCALE = ("CONCATENATION", "RESIZE_BILINEAR")
"""Their integer kernels want one scale for inputs and output."""
_LARGEST_INT16 = 32767
_INT16_VERSIONS = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 5, "MEAN": 3, "QUANTIZE": 2}
"""Versions of operators whose kernels take 16 bits, from the runtime's register."""
_OPERATORS = {
    value: name for name, value in vars(schema.BuiltinOperator).items() if not name.startswith("_")
}


class Precision(enum.Enum):
    """What an operator computes in."""

    FLOAT32 = "float32"
    """Weights and activations."""
    INT16X8 = "int16x8"
    """16-bit activations, symmetric; int8 weights, int64 bias."""


def find_layers(content: bytes, names: list[str]) -> dict[str, int]:
    """The operator that computes each named Keras layer.

    A tensor's name holds the names of all layers that were fused into its operator.

    Args:
        content: the `.tflite`.
        names: Keras layers.

    Returns:
        {name: operator position}.

    Raises:
        ValueError: a layer that the file does not compute alone, with the names nearest to it.
    """
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    positions: dict[str, int] = {}
    for position, operator in enumerate(graph.operators):
        for token in graph.tensors[operator.outputs[0]].name.decode().split(";"):
            for part in token.split("/"):
                positions.setdefault(part.removeprefix(WRAPPER_PREFIX), position)
    for name in names:
        if name not in positions:
            near = difflib.get_close_matches(name, positions, 3, 0.5)
            raise ValueError(
                f"no operator of the file computes layer {name!r}"
                + (f"; near: {', '.join(near)}" if near else "")
            )
    return {name: positions[name] for name in names}


def raise_layers(
    content: bytes, done: PostTrained, keep_float: tuple[str, ...], int16: tuple[str, ...]
) -> bytes:
    """`raise_precision` by layer names, float weights from the network the file is made of.

    Args:
        content: the int8 `.tflite`.
        done: the network.
        keep_float, int16: names of units or of their nodes (`sensitivity.units_named`).

    Raises:
        ValueError: a layer that is not an operator of its own, or has no such kernel.
    """
    units = find_units(done.description, done.arrays)
    floats, wide = (
        [unit.layers[0] for unit in units_named(units, names)] for names in (keep_float, int16)
    )
    positions = find_layers(content, [*floats, *wide])
    wanted = {positions[name]: Precision.FLOAT32 for name in floats}
    wanted |= {positions[name]: Precision.INT16X8 for name in wide}
    weights = {
        positions[node.name]: (
            _file_layout(node, done.arrays[kernel_key(node)]),
            done.arrays.get(bias_key(node)),
        )
        for node in done.description.nodes
        if node.name in floats and node.kind in CONVOLUTIONS
    }
    return raise_precision(content, wanted, weights)


def raised_positions(
    content: bytes, done: PostTrained, keep_float: tuple[str, ...], int16: tuple[str, ...]
) -> dict[int, str]:
    """{operator position in the int8 file: "FLOAT32" or "INT16"} that `raise_layers` is to raise.

    For the gate, which looks for itself at what has become of them.
    """
    units = find_units(done.description, done.arrays)
    wanted: dict[int, str] = {}
    for names, kind in ((keep_float, "FLOAT32"), (int16, "INT16")):
        layers = [unit.layers[0] for unit in units_named(units, names)]
        wanted |= dict.fromkeys(find_layers(content, layers).values(), kind)
    return wanted


def _file_layout(node: Node, kernel: np.ndarray) -> np.ndarray:
    """[h, w, in, out], transposed [h, w, out, in] -> [out, h, w, in]; depthwise [h, w, in, m] ->
    [1, h, w, in * m]."""
    if node.kind == "depthwise_conv2d":
        return kernel.reshape(1, *kernel.shape[:2], -1)
    outputs = 2 if node.kind == "conv2d_transpose" else 3
    return np.moveaxis(kernel, outputs, 0)


def raise_precision(
    content: bytes,
    wanted: dict[int, Precision],
    weights: dict[int, tuple[np.ndarray, np.ndarray | None]],
) -> bytes:
    """Rewrites a file so that some operators compute in more than 8 bits.

    Args:
        content: an int8 `.tflite` with one subgraph.
        wanted: {operator position: precision}.
        weights: {position of a float convolution: (float32 kernel in the layout of the file,
            float32 bias or None)}.

    Raises:
        ValueError: an operator that has no such kernel, is not int8, or lacks its weights.
    """
    return _Rewriter(content, wanted, weights).run()


class _Rewriter:
    """One rewriting; `_versions` holds what each int8 tensor is also there as."""

    def __init__(self, content: bytes, wanted, weights):
        self._size = len(content)
        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self._graph = self._model.subgraphs[0]
        self._wanted, self._weights = wanted, weights
        self._versions: dict[tuple[int, str, float], int] = {}
        self._operators: list[schema.OperatorT] = []

    def run(self) -> bytes:
        for position, operator in enumerate(list(self._graph.operators)):
            precision = self._wanted.get(position)
            if precision is None:
                self._operators.append(operator)
            else:
                self._raise(position, operator, precision)
        self._graph.operators = self._operators
        self._drop_unread()
        return pack(self._model, self._size)

    def _raise(self, position: int, operator, precision: Precision) -> None:
        kind = self._kind(operator)
        name = self._tensor(operator.outputs[0]).name.decode()
        kernels = _INT16_KERNELS if precision is Precision.INT16X8 else _FLOAT_KERNELS
        if kind not in kernels:
            raise ValueError(
                f"operator {position} ({kind} {name!r}) has no {precision.value} form here; "
                f"there is one for {', '.join(kernels)}"
            )
        if self._tensor(operator.outputs[0]).type != schema.TensorType.INT8:
            raise ValueError(f"operator {position} ({kind} {name!r}) is not int8; leave it out")
        old_output = int(operator.outputs[0])
        is_float = precision is Precision.FLOAT32
        scale = 0.0 if is_float else self._int16_scale(old_output)
        output = self._new_version(old_output, precision, scale)
        inputs = []
        for index in (int(i) for i in operator.inputs):
            if index < 0 or self._is_constant(index):
                if index >= 0 and not is_float and kind not in _CONVOLUTIONS:
                    self._refuse_int8_constant(position, kind, name, index)
                inputs.append(self._float_constant(index) if is_float else index)
            elif is_float:
                inputs.append(self._version(index, precision, 0.0))
            else:
                shared = scale if kind in _ONE_SCALE else self._int16_scale(index)
                inputs.append(self._version(index, precision, shared))
        operator.inputs, operator.outputs = inputs, [output]
        if kind in _CONVOLUTIONS:
            self._replace_weights(position, operator, precision, *_CONVOLUTIONS[kind])
        if kind == "ADD" and operator.builtinOptions is not None:
            operator.builtinOptions.potScaleInt16 = False
        if not is_float:
            number = _code(kind)
            operator.opcodeIndex = self._opcode(number, _INT16_VERSIONS.get(kind, 2))
        self._operators.append(operator)
        self._convert(output, old_output)  # for those that read 8 bits; dropped where none does

    def _kind(self, operator) -> str:
        code = self._model.operatorCodes[operator.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        return _OPERATORS.get(number, f"operator {number}")

    def _tensor(self, index: int):
        return self._graph.tensors[index]

    def _is_constant(self, index: int) -> bool:
        data = self._model.buffers[self._tensor(index).buffer].data
        return data is not None and len(data) > 0

    def _refuse_int8_constant(self, position: int, kind: str, name: str, index: int) -> None:
        if self._tensor(index).type == schema.TensorType.INT8:
            raise ValueError(
                f"operator {position} ({kind} {name!r}) has an int8 constant, which has no 16-bit "
                "form here; leave it out"
            )

    def _float_constant(self, index: int) -> int:
        """An int8 constant as float32; sizes and axes, and what is left out, stay."""
        if index < 0 or self._tensor(index).type != schema.TensorType.INT8:
            return index
        old = self._tensor(index)
        steps = np.frombuffer(bytes(self._model.buffers[old.buffer].data), np.int8)
        steps = steps.reshape([int(size) for size in old.shape]).astype(np.float64)
        scale, zero_point = (
            np.asarray(values, np.float64)
            for values in (old.quantization.scale, old.quantization.zeroPoint)
        )
        along = [1] * steps.ndim
        if len(scale) > 1:
            along[old.quantization.quantizedDimension] = -1
        real = scale.reshape(along) * (steps - zero_point.reshape(along))
        return self._constant(index, real.astype("<f4"), schema.TensorType.FLOAT32)

    def _int16_scale(self, index: int) -> float:
        """Symmetric, over what the tensor's 8 bits reach."""
        quantization = self._tensor(index).quantization
        scale, zero_point = float(quantization.scale[0]), int(quantization.zeroPoint[0])
        return scale * max(127 - zero_point, zero_point + 128) / _LARGEST_INT16

    def _version(self, index: int, precision: Precision, scale: float) -> int:
        """A computed tensor in another precision; a conversion is added where there is none."""
        key = (index, precision.value, scale)
        if key not in self._versions:
            source = index
            for (old, kind, _), new in self._versions.items():
                if old == index and kind == precision.value:
                    source = new  # 16 bits with another scale: not by way of 8 bits
            made = self._new_version(index, precision, scale)
            self._convert(source, made)
        return self._versions[key]

    def _new_version(self, index: int, precision: Precision, scale: float) -> int:
        old = self._tensor(index)
        new = schema.TensorT()
        new.shape, new.shapeSignature = old.shape, old.shapeSignature
        new.name = old.name + f"_{precision.value}".encode()
        new.buffer = 0
        if precision is Precision.FLOAT32:
            new.type = schema.TensorType.FLOAT32
        else:
            new.type = schema.TensorType.INT16
            new.quantization = _symmetric(scale)
        self._graph.tensors.append(new)
        made = len(self._graph.tensors) - 1
        self._versions[(index, precision.value, scale)] = made
        return made

    def _convert(self, source: int, target: int) -> None:
        to_float = self._tensor(target).type == schema.TensorType.FLOAT32
        kind = "DEQUANTIZE" if to_float else "QUANTIZE"
        sixteen = schema.TensorType.INT16 in (self._tensor(source).type, self._tensor(target).type)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._opcode(_code(kind), 2 if sixteen or to_float else 1)
        operator.inputs, operator.outputs = [source], [target]
        self._operators.append(operator)

    def _opcode(self, number: int, version: int) -> int:
        for index, code in enumerate(self._model.operatorCodes):
            known = max(code.builtinCode, code.deprecatedBuiltinCode)
            if known == number and code.version >= version:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = version
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1

    def _replace_weights(
        self, position: int, operator, precision: Precision, kernel_at: int, bias_at: int
    ) -> None:
        kernel = operator.inputs[kernel_at]
        bias = operator.inputs[bias_at] if bias_at < len(operator.inputs) else -1
        if precision is Precision.INT16X8:
            if bias >= 0:
                scales = self._tensor(operator.inputs[0]).quantization.scale[0] * np.asarray(
                    self._tensor(kernel).quantization.scale, np.float64
                )
                operator.inputs[bias_at] = self._int64_bias(bias, scales)
            return
        if position not in self._weights:
            raise ValueError(f"operator {position}: its float weights are not known")
        values, offsets = self._weights[position]
        if tuple(self._tensor(kernel).shape) != values.shape:
            raise ValueError(
                f"operator {position} has a kernel of shape {list(self._tensor(kernel).shape)}, "
                f"the float network one of {list(values.shape)}"
            )
        operator.inputs[kernel_at] = self._constant(
            kernel, values.astype("<f4"), schema.TensorType.FLOAT32
        )
        if bias >= 0:
            if offsets is None:  # the converter made one of zeros
                offsets = np.zeros(int(self._tensor(bias).shape[0]))
            operator.inputs[bias_at] = self._constant(
                bias, offsets.astype("<f4"), schema.TensorType.FLOAT32
            )

    def _int64_bias(self, bias: int, scales: np.ndarray) -> int:
        old = self._tensor(bias)
        stored = np.frombuffer(bytes(self._model.buffers[old.buffer].data), "<i4")
        real = stored * np.asarray(old.quantization.scale, np.float64)
        steps = np.rint(real / scales).astype("<i8")
        made = self._constant(bias, steps, schema.TensorType.INT64)
        self._tensor(made).quantization = _symmetric(scales)
        return made

    def _constant(self, like: int, values: np.ndarray, kind: int) -> int:
        old = self._tensor(like)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        new = schema.TensorT()
        new.shape, new.name, new.type = old.shape, old.name + b"_raised", kind
        new.buffer = len(self._model.buffers) - 1
        self._graph.tensors.append(new)
        return len(self._graph.tensors) - 1

    def _drop_unread(self) -> None:
        """Removes conversions back to 8 bits that nobody reads."""
        while True:
            read = {int(i) for operator in self._operators for i in operator.inputs}
            read |= {int(i) for i in self._graph.outputs}
            kept = [op for op in self._operators if any(int(i) in read for i in op.outputs)]
            if len(kept) == len(self._operators):
                break
            self._operators[:] = kept
        self._drop_unused_buffers()

    def _drop_unused_buffers(self) -> None:
        """Empties the buffers of weights that were replaced."""
        used = {
            int(i) for operator in self._operators for i in (*operator.inputs, *operator.outputs)
        }
        used |= {int(i) for i in (*self._graph.inputs, *self._graph.outputs)}
        needed = {self._tensor(index).buffer for index in used if index >= 0}
        needed |= {entry.buffer for entry in self._model.metadata or []}
        for index, tensor in enumerate(self._graph.tensors):
            if index not in used:
                tensor.buffer = 0
        for index, buffer in enumerate(self._model.buffers):
            if index not in needed:
                buffer.data = None


def _symmetric(scale) -> schema.QuantizationParametersT:
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
    quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
    return quantization


def _code(kind: str) -> int:
    return getattr(schema.BuiltinOperator, kind)

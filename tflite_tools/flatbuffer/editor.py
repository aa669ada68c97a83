"""Edits a `.tflite` file: adds, replaces and removes constants, tensors and operators.

An edit leaves everything else unchanged, and independent edits give the same bytes in either
order: tensors and buffers of an edited file are numbered by the place where they are first used,
operator codes by the schema's numbers, and not by the order in which they were added.
"""

import collections
import copy
import io
import zipfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.graph import parse_model
from tflite_tools.flatbuffer.graph_checks import LEFT_OUT
from tflite_tools.flatbuffer.operators import NAMES, number_of, traits
from tflite_tools.flatbuffer.pack import pack
from tflite_tools.flatbuffer.small_integers import BITS
from tflite_tools.flatbuffer.small_integers import pack as pack_integers
from tflite_tools.flatbuffer.small_integers import unpack as unpack_integers
from tflite_tools.flatbuffer.stored_values import TYPE_NAMES

_DTYPES = {
    schema.TensorType.FLOAT32: "<f4",
    schema.TensorType.INT8: "i1",
    schema.TensorType.UINT8: "u1",
    schema.TensorType.INT16: "<i2",
    schema.TensorType.INT32: "<i4",
    schema.TensorType.INT64: "<i8",
}
_LARGEST_PACKED_FILES = 64_000_000
"""Bytes of all files in the ZIP behind a graph, such as lists of labels, once unpacked."""
_TYPES = {np.dtype(dtype): kind for kind, dtype in _DTYPES.items()}
_DTYPES_READ = _DTYPES | dict.fromkeys((schema.TensorType.INT4, schema.TensorType.INT2), "i1")
"""Integers of fewer than 8 bits are read as 8 bits; `add_constant` adds those of 8."""


class Editor:
    """A file with one subgraph that is being edited.

    Attributes:
        model: the whole file, as the schema's objects.
        graph: its subgraph.
        in_place: after `to_bytes`: whether only the bytes of replaced constants changed.
    """

    def __init__(self, content: bytes | None = None, *, name: str = "model") -> None:
        """Unpacks a file.

        Args:
            content: the `.tflite`; None for an empty one.
            name: name of the file, for messages.

        Raises:
            ValueError: not a `.tflite`, damaged, or with several subgraphs.
        """
        self._content = content
        self.model = _empty_model() if content is None else parse_model(content, name)
        if len(self.model.subgraphs) != 1:
            raise ValueError(f"{name}: expected one subgraph, got {len(self.model.subgraphs)}")
        self.graph = self.model.subgraphs[0]
        self._replaced: dict[int, bytes] = {}
        self.in_place = content is not None

    # Reading

    def kind(self, operator: schema.OperatorT) -> str:
        """Returns the name of an operator in the schema, such as "CONV_2D"."""
        return self._code_kind(self.model.operatorCodes[operator.opcodeIndex])

    def operators(self, *kinds: str) -> list[schema.OperatorT]:
        """Returns operators in the order of execution.

        Args:
            *kinds: names in the schema; without any, all operators are returned.
        """
        return [op for op in self.graph.operators if not kinds or self.kind(op) in kinds]

    def tensor(self, index: int) -> schema.TensorT:
        """Returns the tensor of an index."""
        return self.graph.tensors[int(index)]

    def name(self, index: int) -> str:
        """Returns the name of a tensor."""
        return (self.tensor(index).name or b"").decode(errors="replace")

    def is_constant(self, index: int) -> bool:
        """Returns whether a tensor's value is stored in the file."""
        data = self.model.buffers[self.tensor(index).buffer].data
        return data is not None and len(data) > 0

    def constant(self, index: int) -> np.ndarray | None:
        """Returns the stored value of a tensor; None where the tensor is computed.

        Args:
            index: of the tensor.

        Returns:
            An array of the tensor's dtype and shape.
        """
        if not self.is_constant(index):
            return None
        tensor = self.tensor(index)
        data = np.asarray(self.model.buffers[tensor.buffer].data, np.uint8)
        shape = () if tensor.shape is None else [int(size) for size in tensor.shape]
        if (type_name := TYPE_NAMES[tensor.type]) in BITS:
            count = int(np.prod(shape, dtype=np.int64))
            return unpack_integers(data, count, type_name=type_name).reshape(shape)
        return np.frombuffer(data.tobytes(), _DTYPES_READ[tensor.type]).reshape(shape)

    def real_constant(self, index: int) -> np.ndarray:
        """Returns the stored value of a tensor, dequantized.

        Args:
            index: of the tensor.

        Returns:
            float64, scale * (quantized - zero_point) where the tensor is quantized.

        Raises:
            ValueError: the tensor is computed.
        """
        steps, quantization = self.constant(index), self.tensor(index).quantization
        if steps is None:
            raise ValueError(f"tensor {self.name(index)!r} is computed, not constant")
        if quantization is None or quantization.scale is None:
            return steps.astype(np.float64)
        along = [1] * steps.ndim
        if len(quantization.scale) > 1:
            along[quantization.quantizedDimension] = -1
        scale, zero_point = (
            np.asarray(values, np.float64).reshape(along)
            for values in (quantization.scale, quantization.zeroPoint)
        )
        return scale * (steps.astype(np.float64) - zero_point)

    # Adding

    def add_tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        kind: int,
        quantization: schema.QuantizationParametersT | None = None,
        shape_signature: Sequence[int] | None = None,
    ) -> int:
        """Adds a computed tensor.

        Args:
            name: name of the tensor.
            shape: its shape.
            kind: its type, a value of `schema.TensorType`.
            quantization: its scale and zero point; None for float tensors.
            shape_signature: its shape with -1 for dynamic dimensions, if there are any.

        Returns:
            The index of the tensor.
        """
        tensor = schema.TensorT()
        tensor.name, tensor.type, tensor.buffer = name.encode(), kind, 0
        tensor.shape = _indices(shape)
        tensor.shapeSignature = None if shape_signature is None else _indices(shape_signature)
        tensor.quantization = quantization
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_constant(
        self,
        name: str,
        values: np.ndarray,
        *,
        quantization: schema.QuantizationParametersT | None = None,
        shape: Sequence[int] | None = None,
    ) -> int:
        """Adds a stored tensor of the dtype of its values.

        Args:
            name: name of the tensor.
            values: its value.
            quantization: its scale and zero point; None for float tensors.
            shape: its shape; None: that of the values.

        Returns:
            The index of the tensor.
        """
        kind = _TYPES[np.dtype(values.dtype)]
        shape = values.shape if shape is None else shape
        index = self.add_tensor(name, shape, kind=kind, quantization=quantization)
        self.tensor(index).buffer = self._add_buffer(values)
        return index

    def new_operator(
        self,
        kind: str,
        inputs: Iterable[int],
        *,
        outputs: Iterable[int],
        version: int | None = None,
        options: object | None = None,
    ) -> schema.OperatorT:
        """Returns a new operator; the caller inserts it into `graph.operators`.

        Args:
            kind: name in the schema.
            inputs: indices of the tensors that it reads.
            outputs: indices of the tensors that it computes.
            version: lowest version that fits; None: the operator table's version for 8 bits.
            options: options object of the schema, such as `TileOptionsT()`.
        """
        operator = schema.OperatorT()
        version = traits(kind).version if version is None else version
        operator.opcodeIndex = self.opcode(kind, version)
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, name)
            operator.builtinOptions = options
        return operator

    def opcode(self, kind: str, version: int) -> int:
        """Returns the index of an operator code, which is added where it is missing.

        Args:
            kind: name in the schema.
            version: lowest version that fits.
        """
        for index, code in enumerate(self.model.operatorCodes):
            if self._code_kind(code) == kind and code.version >= version:
                return index
        number = number_of(kind)
        code = schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    # Replacing and removing

    def replace_constant(
        self, operator: schema.OperatorT, slot: int, *, values: np.ndarray
    ) -> None:
        """Replaces a constant input of one operator by a value of the same type and shape.

        Other operators that read the tensor, and other tensors that share its bytes, keep the old
        value.

        Args:
            operator: the operator.
            slot: which of its inputs.
            values: the new value.
        """
        index = int(operator.inputs[slot])
        tensor = self.tensor(index)
        stored = _bytes_of(values.astype(_DTYPES_READ[tensor.type]))
        if TYPE_NAMES[tensor.type] in BITS:
            stored = pack_integers(values, type_name=TYPE_NAMES[tensor.type])
        if self._readers()[index] > 1:
            tensor = copy.copy(tensor)
            operator.inputs = list(operator.inputs)
            operator.inputs[slot] = len(self.graph.tensors)
            self.graph.tensors.append(tensor)
            tensor.buffer = self._add_buffer(stored)
        elif self._users()[tensor.buffer] > 1:
            tensor.buffer = self._add_buffer(stored)
        else:
            self.model.buffers[tensor.buffer].data = stored
            self._replaced[tensor.buffer] = stored.tobytes()

    def drop_unread_operators(self) -> None:
        """Removes operators whose outputs are not read, and the constants that only they read."""
        read = {int(index) for index in self.graph.outputs}
        kept = []
        for operator in reversed(self.graph.operators):  # readers stand behind what they read
            if any(int(index) in read for index in operator.outputs):
                kept.append(operator)
                read.update(int(index) for index in operator.inputs)
        self.graph.operators = kept[::-1]
        self._empty_unused_buffers()

    # Packing

    def to_bytes(self) -> bytes:
        """Returns the edited file, with the ZIP archive that follows the original, if there is one.

        Equal vectors are stored once. Where only constants that share no bytes were replaced in a
        file that another program packed, all other bytes stay those of the original.
        """
        if self._content is None:
            return pack(self.model, 1 << 16)
        size = len(self._content)
        patched = self._patched()
        if (
            patched is not None
            and pack(self.model, size) == _packed(patched)
            and (_packed(self._content) != self._content or _packed(patched) == patched)
        ):
            return patched
        self.in_place = False
        self._renumber()
        return _with_packed_files(pack(self.model, size), self._content)

    def _patched(self) -> bytes | None:
        """Returns the original with replaced bytes; None where constants share bytes."""
        changed = bytearray(self._content or b"")
        model = schema.Model.GetRootAs(changed, 0)
        views = {
            index: model.Buffers(index).DataAsNumpy() for index in range(model.BuffersLength())
        }
        views = {index: view for index, view in views.items() if not isinstance(view, int)}
        for index, data in self._replaced.items():
            if index not in views or len(views[index]) != len(data):
                return None
            others = (view for other, view in views.items() if other != index)
            if any(np.may_share_memory(views[index], view) for view in others):
                return None
            views[index][:] = np.frombuffer(data, np.uint8)
        return bytes(changed)

    @staticmethod
    def _code_kind(code: schema.OperatorCodeT) -> str:
        # Files older than schema 3a keep the code in the deprecated int8 field.
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        return NAMES.get(number, f"operator {number}")

    def _add_buffer(self, values: np.ndarray) -> int:
        buffer = schema.BufferT()
        buffer.data = _bytes_of(values)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def _readers(self) -> collections.Counter:
        """Counts the inputs that read each tensor; an output of the graph counts as one."""
        readers = collections.Counter(int(i) for op in self.graph.operators for i in op.inputs)
        readers.update(int(i) for i in self.graph.outputs)
        return readers

    def _users(self) -> collections.Counter:
        """Counts the tensors and metadata entries that use each buffer."""
        users = collections.Counter(tensor.buffer for tensor in self.graph.tensors)
        users.update(entry.buffer for entry in self.model.metadata or [])
        return users

    def _used_tensors(self) -> list[int]:
        """Returns the indices of the used tensors in the order of their first use."""
        named = [*_items(self.graph.inputs)]
        for operator in self.graph.operators:
            named += [*_items(operator.inputs), *_items(operator.outputs)]
            named += _items(operator.intermediates)
        named += _items(self.graph.outputs)
        named += [entry.tensorIndex for entry in self._signature_entries()]
        return [i for i in dict.fromkeys(int(index) for index in named) if i != LEFT_OUT]

    def _empty_unused_buffers(self) -> None:
        used = set(self._used_tensors())
        needed = {self.tensor(index).buffer for index in used}
        needed |= {entry.buffer for entry in self.model.metadata or []}
        for index, tensor in enumerate(self.graph.tensors):
            if index not in used:
                tensor.buffer = 0
        for index, buffer in enumerate(self.model.buffers):
            if index not in needed:
                buffer.data = None

    def _renumber(self) -> None:
        """Renumbers tensors, buffers and operator codes by use; unused ones are removed."""
        used = self._used_tensors()
        numbers = {old: new for new, old in enumerate(used)} | {LEFT_OUT: LEFT_OUT}
        self.graph.tensors = [self.graph.tensors[index] for index in used]
        for entry in self._signature_entries():
            entry.tensorIndex = numbers[entry.tensorIndex]
        for owner in (*self.graph.operators, self.graph):
            owner.inputs = _indices([numbers[int(index)] for index in _items(owner.inputs)])
            owner.outputs = _indices([numbers[int(index)] for index in _items(owner.outputs)])
        for operator in self.graph.operators:
            if operator.intermediates is not None:
                operator.intermediates = _indices([numbers[int(i)] for i in operator.intermediates])
        self._renumber_buffers()
        self._renumber_codes()

    def _signature_entries(self) -> list[schema.TensorMapT]:
        signatures = self.model.signatureDefs or []
        return [
            entry
            for signature in signatures
            for entry in (*_items(signature.inputs), *_items(signature.outputs))
        ]

    def _renumber_buffers(self) -> None:
        owners = [*self.graph.tensors, *(self.model.metadata or [])]
        old_metadata = [int(index) for index in _items(self.model.metadataBuffer)]
        used = list(dict.fromkeys([0, *(owner.buffer for owner in owners), *old_metadata]))
        numbers = {old: new for new, old in enumerate(used)}
        self.model.buffers = [self.model.buffers[index] for index in used]
        for owner in owners:
            owner.buffer = numbers[owner.buffer]
        if self.model.metadataBuffer is not None:
            self.model.metadataBuffer = _indices([numbers[index] for index in old_metadata])

    def _renumber_codes(self) -> None:
        """Keeps one code per kind of operator, with the highest version that is used."""
        codes = self.model.operatorCodes
        highest: dict[tuple[int, bytes], schema.OperatorCodeT] = {}
        for index in sorted({operator.opcodeIndex for operator in self.graph.operators}):
            key = _code_key(codes[index])
            if key not in highest or codes[index].version > highest[key].version:
                highest[key] = codes[index]
        keys = sorted(highest)
        for operator in self.graph.operators:
            operator.opcodeIndex = keys.index(_code_key(codes[operator.opcodeIndex]))
        self.model.operatorCodes = [highest[key] for key in keys]


def _code_key(code: schema.OperatorCodeT) -> tuple[int, bytes]:
    return max(code.builtinCode, code.deprecatedBuiltinCode), code.customCode or b""


def symmetric(scale: float | Sequence[float] | np.ndarray) -> schema.QuantizationParametersT:
    """Returns a quantization with zero point 0.

    Args:
        scale: one scale, or one per channel of the first axis.
    """
    quantization = schema.QuantizationParametersT()
    quantization.scale = np.atleast_1d(np.asarray(scale, np.float32))
    quantization.zeroPoint = np.zeros(len(quantization.scale), np.int64)
    return quantization


def _empty_model() -> schema.ModelT:
    model, graph = schema.ModelT(), schema.SubGraphT()
    graph.tensors, graph.operators, graph.inputs, graph.outputs = [], [], [], []
    model.version, model.subgraphs, model.operatorCodes = 3, [graph], []
    model.buffers = [schema.BufferT()]  # the schema keeps buffer 0 empty
    return model


def _packed(content: bytes) -> bytes:
    """Returns a file as `pack` writes it."""
    return pack(parse_model(content, "model"), len(content))


def _items(vector: Iterable[Any] | None) -> list[Any]:
    return [] if vector is None else list(vector)


def _indices(values: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns int32 indices: `pack` stores equal arrays once, but not equal lists."""
    return np.array(values, np.int32)


def _bytes_of(values: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)


def _with_packed_files(graph: bytes, original: bytes) -> bytes:
    """Appends the files of the ZIP archive that follows the original's graph, such as labels."""
    if not zipfile.is_zipfile(io.BytesIO(original)):
        return graph
    stream = io.BytesIO(graph)
    with (
        zipfile.ZipFile(io.BytesIO(original)) as packed,
        zipfile.ZipFile(stream, "a") as appended,
    ):
        entries = packed.infolist()
        if (size := sum(entry.file_size for entry in entries)) > _LARGEST_PACKED_FILES:
            raise ValueError(
                f"expected at most {_LARGEST_PACKED_FILES} bytes of files behind the graph, got "
                f"{size}"
            )
        for entry in entries:
            appended.writestr(entry, packed.read(entry))
    return stream.getvalue()

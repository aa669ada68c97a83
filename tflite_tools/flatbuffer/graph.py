"""Reads a `.tflite` file as a graph, through the schema in the runtime's package.

Nothing here runs the file. A foreign or damaged file raises ValueError: the native runtime can
crash on an invalid index, so indices and buffer sizes are checked before any interpreter loads
the file.
"""

import copy
import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.file_bytes import check_header, read_model_bytes
from tflite_tools.flatbuffer.foreign_parts import why_several_subgraphs
from tflite_tools.flatbuffer.graph_checks import check_graph
from tflite_tools.flatbuffer.operators import NAMES
from tflite_tools.flatbuffer.outside_weights import bring_inside
from tflite_tools.flatbuffer.stored_values import DTYPES, TYPE_NAMES, StoredValues
from tflite_tools.flatbuffer.verifier import verify
from tflite_tools.manifest import read_manifest

MAX_RANK = 8
LARGEST_TENSOR_BYTES = 2**31 - 1
"""On many devices the runtime counts the bytes of a tensor in 32 bits."""


@dataclasses.dataclass(frozen=True)
class Quantization:
    """Quantization of a tensor: real = scale * (quantized - zero_point).

    Attributes:
        scale: float32 [1] or [channels].
        zero_point: int64, the same shape.
        quantized_dimension: the axis of the channels; 0 for a single scale.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    quantized_dimension: int

    @property
    def per_channel(self) -> bool:
        """Whether there is one scale per channel."""
        return len(self.scale) > 1


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of the graph.

    Attributes:
        index: position in the file.
        name: name in the file; need not be unique.
        shape: as stored. A dynamic dimension is stored as 1; a computed tensor with an unknown
            number of dimensions has [], like a scalar.
        shape_signature: the shape with -1 for dynamic dimensions.
        dtype: NumPy dtype of `data`: integers of fewer than 8 bits have 8; None for other types
            that NumPy lacks (`type_name` has the name).
        type_name: name in the schema.
        quantization: None for float tensors.
        data: constant value with `shape`, or None for a computed tensor.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: np.dtype | None
    type_name: str
    quantization: Quantization | None
    data: np.ndarray | None

    @property
    def is_float(self) -> bool:
        """Whether its type is a floating-point type."""
        return self.type_name in ("FLOAT16", "FLOAT32", "FLOAT64")

    def dequantized(self) -> np.ndarray:
        """Returns the constant value as float32.

        Raises:
            ValueError: the tensor is not constant.
        """
        if self.data is None:
            raise ValueError(f"tensor {self.name!r} is computed, not constant")
        if self.quantization is None:
            return self.data.astype(np.float32)
        scale, zero_point = self.quantization.scale, self.quantization.zero_point
        if self.quantization.per_channel:
            along = [1] * self.data.ndim
            along[self.quantization.quantized_dimension] = -1
            scale, zero_point = scale.reshape(along), zero_point.reshape(along)
        return (scale * (self.data.astype(np.float64) - zero_point)).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class Operator:
    """One operator of the graph.

    Attributes:
        position: place in the order of execution.
        kind: builtin name such as "CONV_2D", or "CUSTOM:<name>".
        inputs: tensor indices; -1 for an optional input that is omitted.
        outputs: tensor indices.
        options: the schema's options object, or None.
        custom_options: the bytes that a custom operator stores for its own kernel.
    """

    position: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any
    custom_options: bytes = b""


@dataclasses.dataclass(frozen=True)
class Graph:
    """The subgraph of a file with one subgraph.

    Attributes:
        path: the file.
        tensors: all tensors, by index.
        operators: all operators in the order of execution.
        inputs: tensor indices.
        outputs: tensor indices.
        size_bytes: size of the file.
    """

    path: pathlib.Path
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    size_bytes: int

    def producer(self, tensor_index: int) -> Operator | None:
        """Returns the operator that computes a tensor; None for inputs and constants."""
        return self._producers.get(tensor_index)

    def consumers(self, tensor_index: int) -> list[Operator]:
        """Returns the operators that read a tensor, in the order of execution."""
        return self._consumers.get(tensor_index, [])

    @functools.cached_property
    def _producers(self) -> dict[int, Operator]:
        return {index: op for op in reversed(self.operators) for index in op.outputs}

    @functools.cached_property
    def _consumers(self) -> dict[int, list[Operator]]:
        consumers: dict[int, list[Operator]] = {}
        for operator in self.operators:
            for index in dict.fromkeys(operator.inputs):
                consumers.setdefault(index, []).append(operator)
        return consumers


_last: list[Any] = []
"""Bytes and graph of the file that was read last: unpacking 30,000 operators takes seconds."""
_verified: list[Any] = []
"""The bytes that were verified last, and the allowance that was left."""


def read_graph(path: str | pathlib.Path) -> Graph:
    """Reads and checks a file with one subgraph; one that did not change is not read again.

    Args:
        path: the `.tflite` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a `.tflite`, damaged, or with several subgraphs.
    """
    path = pathlib.Path(path)
    content = read_model_bytes(path)
    if _last and _last[0] is content and _last[1].path == path:
        return _last[1]
    model = parse_model(content, str(path))
    try:
        graph = _read_subgraph(model, path, size_bytes=len(content))
    except ValueError:
        raise
    except Exception as error:
        raise ValueError(f"{path}: damaged .tflite ({type(error).__name__}: {error})") from error
    _last[:] = content, graph
    return graph


def read_checked_graph(path: str | pathlib.Path) -> Graph:
    """Reads a file as `read_graph` does, and compares it with its manifest if there is one.

    Args:
        path: the `.tflite` file.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as `read_graph`, or the manifest next to the file has another sha256.
    """
    graph = read_graph(path)
    read_manifest(graph.path)
    return graph


def parse_model(content: bytes, name: str) -> schema.ModelT:
    """Unpacks a flatbuffer in a time that is bounded by its size.

    Weights behind the tables become the buffers' own data.

    Args:
        content: the `.tflite`.
        name: name of the file, for messages.

    Raises:
        ValueError: not a `.tflite`, tables point outside the file, or so many references point to
            the same tables that unpacking would not end.
    """
    verified_root(content, name)
    try:
        model = schema.ModelT.InitFromPackedBuf(content, 0)
        bring_inside(model, content, allowance=copy.copy(_verified[1]))
        return model
    except ValueError as error:
        raise ValueError(f"{name}: damaged .tflite ({error}); fetch it again") from error
    except Exception as error:
        raise ValueError(
            f"{name}: damaged .tflite ({type(error).__name__} while unpacking); fetch it again"
        ) from error


def verified_root(content: bytes, name: str) -> schema.Model:
    """Returns the root table of a file whose tables were verified, without unpacking them.

    Args:
        content: the `.tflite`.
        name: name of the file, for messages.

    Raises:
        ValueError: as `parse_model`.
    """
    check_header(content, name)
    if not (_verified and _verified[0] is content):
        try:
            allowance = verify(content)
        except ValueError as error:
            raise ValueError(f"{name}: damaged .tflite ({error}); fetch it again") from error
        except Exception as error:
            raise ValueError(
                f"{name}: damaged .tflite ({type(error).__name__} while unpacking); fetch it again"
            ) from error
        _verified[:] = content, allowance
    return schema.Model.GetRootAs(content, 0)


def _read_subgraph(model: schema.ModelT, path: pathlib.Path, *, size_bytes: int) -> Graph:
    subgraphs = model.subgraphs or []
    if len(subgraphs) != 1:
        raise ValueError(f"{path}: {why_several_subgraphs(model)}")
    subgraph = subgraphs[0]
    values = StoredValues(model.buffers or [], path)
    tensors = tuple(
        _read_tensor(index, tensor, values=values, path=path)
        for index, tensor in enumerate(_items(subgraph.tensors))
    )
    inputs, outputs = _indices(subgraph.inputs), _indices(subgraph.outputs)
    operators = tuple(
        _read_operator(position, operator, codes=model.operatorCodes or [], path=path)
        for position, operator in enumerate(_items(subgraph.operators))
    )
    for index in inputs + outputs:
        if not 0 <= index < len(tensors):
            raise ValueError(f"{path}: damaged .tflite (input or output tensor {index} missing)")
    if not inputs or not outputs or not operators:
        raise ValueError(f"{path}: damaged .tflite (no input, no output or no operator)")
    graph = Graph(
        path, tensors, operators=operators, inputs=inputs, outputs=outputs, size_bytes=size_bytes
    )
    check_graph(graph)
    return graph


def _items(vector: Any) -> Any:
    """Returns a vector of the schema; an empty list where the file has none."""
    return [] if vector is None else vector


def _indices(vector: Iterable[int] | None) -> tuple[int, ...]:
    return tuple(int(index) for index in _items(vector))


def _read_tensor(
    index: int, tensor: schema.TensorT, *, values: StoredValues, path: pathlib.Path
) -> Tensor:
    shape = _indices(tensor.shape)
    name = (tensor.name or b"").decode(errors="replace")
    if len(shape) > MAX_RANK or min(shape, default=0) < 0:
        raise ValueError(f"{path}: damaged .tflite (tensor {name!r} has shape {list(shape)})")
    type_name = TYPE_NAMES.get(tensor.type, f"type {tensor.type}")
    dtype = DTYPES.get(tensor.type)
    width = np.dtype(dtype).itemsize if dtype else 1
    if math.prod(shape) * width > LARGEST_TENSOR_BYTES:
        raise ValueError(f"{path}: tensor {name!r} of shape {list(shape)} is larger than 2 GB")
    return Tensor(
        index,
        name,
        shape=shape,
        shape_signature=_indices(tensor.shapeSignature) or shape,
        dtype=np.dtype(dtype) if dtype else None,
        type_name=type_name,
        quantization=_read_quantization(
            name, shape, quantization=tensor.quantization, dtype=dtype, path=path
        ),
        data=values.value(tensor, shape, name=name),
    )


def _read_quantization(
    name: str,
    shape: tuple[int, ...],
    *,
    quantization: schema.QuantizationParametersT | None,
    dtype: type[np.generic] | None,
    path: pathlib.Path,
) -> Quantization | None:
    if quantization is not None and quantization.details is not None:
        raise ValueError(
            f"{path}: tensor {name!r} has {type(quantization.details).__name__.removesuffix('T')}, "
            "which is not supported; convert the model with one scale per tensor or per channel"
        )
    if quantization is None or quantization.scale is None or not len(quantization.scale):
        return None
    scale = np.asarray(quantization.scale, np.float32)
    zero_point = np.asarray(_items(quantization.zeroPoint), np.int64)
    if len(zero_point) == 0:
        zero_point = np.zeros(len(scale), np.int64)
    dimension = int(quantization.quantizedDimension)
    if len(shape) == 1 and dimension:
        dimension = 0  # a bias that names the axis of its kernel; the runtime does not look
    fits = len(scale) == 1 or (0 <= dimension < len(shape) and shape[dimension] == len(scale))
    usable = np.isfinite(scale).all() and (scale >= 0).all() and _in_range(zero_point, dtype)
    if len(zero_point) != len(scale) or not fits or not usable:
        raise ValueError(f"{path}: damaged .tflite (quantization of tensor {name!r} is invalid)")
    return Quantization(scale, zero_point, quantized_dimension=dimension if len(scale) > 1 else 0)


def _in_range(zero_point: np.ndarray, dtype: type[np.generic] | None) -> bool:
    """Returns whether zero points are values of the tensor, or of the runtime's own 32 bits."""
    kind = np.dtype(np.int32 if dtype is None else dtype)
    limits = np.iinfo(kind if kind.kind in "iu" and kind.itemsize < 4 else np.int32)
    return bool(((zero_point >= limits.min) & (zero_point <= limits.max)).all())


def _read_operator(
    position: int,
    operator: schema.OperatorT,
    *,
    codes: list[schema.OperatorCodeT],
    path: pathlib.Path,
) -> Operator:
    if not 0 <= operator.opcodeIndex < len(codes):
        raise ValueError(f"{path}: damaged .tflite (operator {position} has no code)")
    code = codes[operator.opcodeIndex]
    # Files older than schema 3a keep the code in the deprecated int8 field.
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    kind = NAMES.get(number, f"operator {number}")
    if kind == "CUSTOM":
        kind = f"CUSTOM:{(code.customCode or b'').decode(errors='replace')}"
    return Operator(
        position,
        kind,
        inputs=_indices(operator.inputs),
        outputs=_indices(operator.outputs),
        options=operator.builtinOptions,
        custom_options=bytes(bytearray(_items(operator.customOptions))),
    )

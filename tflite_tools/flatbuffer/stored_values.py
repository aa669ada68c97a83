"""Values of the constants of a file: plain, sparse, or of fewer than 8 bits."""

import pathlib

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.small_integers import BITS, unpack
from tflite_tools.flatbuffer.sparse import to_dense

DTYPES: dict[int, type[np.generic]] = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.FLOAT64: np.float64,
    schema.TensorType.INT8: np.int8,
    schema.TensorType.UINT8: np.uint8,
    schema.TensorType.INT16: np.int16,
    schema.TensorType.UINT16: np.uint16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.UINT32: np.uint32,
    schema.TensorType.INT64: np.int64,
    schema.TensorType.UINT64: np.uint64,
    schema.TensorType.BOOL: np.bool_,
    schema.TensorType.INT4: np.int8,
    schema.TensorType.INT2: np.int8,
    schema.TensorType.UINT4: np.uint8,
}
"""{type in the schema: NumPy type}; integers of fewer than 8 bits are read as 8 bits."""
TYPE_NAMES = {
    value: name for name, value in vars(schema.TensorType).items() if not name.startswith("_")
}


class StoredValues:
    """The constants of a file.

    Args:
        buffers: those of the file.
        path: the file, for messages.
    """

    def __init__(self, buffers: list[schema.BufferT], path: pathlib.Path) -> None:
        self._buffers, self._path = buffers, path
        self._unpacked: dict[tuple[int, str, int], np.ndarray] = {}

    def value(
        self, tensor: schema.TensorT, shape: tuple[int, ...], *, name: str
    ) -> np.ndarray | None:
        """Returns the stored value of a tensor; None where it is computed.

        Args:
            tensor: the tensor.
            shape: its shape.
            name: its name.

        Raises:
            ValueError: the value is damaged, kept in another file, or of a type that is not read.
        """
        if tensor.externalBuffer:
            raise ValueError(
                f"{self._path}: the weights of tensor {name!r} are in another file (external "
                "buffer), which is not supported; convert the model into one file"
            )
        if not 0 <= tensor.buffer < len(self._buffers):
            raise ValueError(f"{self._path}: damaged .tflite (tensor {name!r} has no buffer)")
        raw = self._buffers[tensor.buffer].data
        if raw is None or not len(raw):
            return None
        type_name = TYPE_NAMES.get(tensor.type, f"type {tensor.type}")
        if tensor.type not in DTYPES:
            if type_name in ("STRING", "RESOURCE", "VARIANT"):
                return None
            raise ValueError(
                f"{self._path}: tensor {name!r} has {type_name} weights, which are not supported; "
                "convert the model with int8 or float weights"
            )
        try:
            if tensor.sparsity is not None:
                stored = self._items(tensor, type_name, count=None)
                return to_dense(stored, shape, sparsity=tensor.sparsity)
            count = int(np.prod(shape, dtype=np.int64))
            return self._items(tensor, type_name, count=count).reshape(shape)
        except (ValueError, IndexError, TypeError, AttributeError) as error:
            kind = "tensor" if tensor.sparsity is None else "sparse tensor"
            raise ValueError(
                f"{self._path}: damaged .tflite ({kind} {name!r} of shape {list(shape)}: {error})"
            ) from error

    def _items(self, tensor: schema.TensorT, type_name: str, *, count: int | None) -> np.ndarray:
        """Returns the stored items, one-dimensional; `count` None: as many as there are."""
        raw, dtype = self._buffers[tensor.buffer].data, np.dtype(DTYPES[tensor.type])
        if type_name in BITS:
            count = len(raw) * 8 // BITS[type_name] if count is None else count
            key = (tensor.buffer, type_name, count)
            if key not in self._unpacked:
                self._unpacked[key] = unpack(raw, count, type_name=type_name)
            return self._unpacked[key]
        if count is not None and len(raw) != count * dtype.itemsize:
            raise ValueError(f"expected {count * dtype.itemsize} bytes, got {len(raw)}")
        # A view: tensors may share a buffer, and copies of a large one would fill the memory.
        return np.frombuffer(raw, dtype)

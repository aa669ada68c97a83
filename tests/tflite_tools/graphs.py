"""Small graphs written by hand, without a file."""

import pathlib
import types

import numpy as np

from tflite_tools.flatbuffer.graph import Graph, Operator, Quantization, Tensor

DTYPES = {
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT16": np.int16,
    "INT32": np.int32,
    "FLOAT32": np.float32,
    "FLOAT16": np.float16,
    "BOOL": np.bool_,
}


class Builder:
    """Tensors and operators in the order in which they are added."""

    def __init__(self):
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []

    def tensor(self, shape, type_name="INT8", data=None, signature=None, scale=0.5) -> int:
        """Index of a new tensor; quantized if it is of 8 bits."""
        index = len(self.tensors)
        quantization = None
        if type_name in ("INT8", "UINT8"):
            quantization = Quantization(
                np.array([scale], np.float32), np.zeros(1, np.int64), quantized_dimension=0
            )
        if data is not None:
            data = np.asarray(data, DTYPES[type_name])
        self.tensors.append(
            Tensor(
                index,
                f"t{index}",
                shape=tuple(shape),
                shape_signature=tuple(signature or shape),
                dtype=np.dtype(DTYPES[type_name]),
                type_name=type_name,
                quantization=quantization,
                data=data,
            )
        )
        return index

    def constant(self, values, type_name="INT32") -> int:
        return self.tensor(np.shape(values), type_name, values)

    def operator(self, kind, inputs, shape, type_name="INT8", **options) -> int:
        """Index of the output of a new operator."""
        output = self.tensor(shape, type_name)
        self.operators.append(
            Operator(
                len(self.operators),
                kind,
                inputs=tuple(inputs),
                outputs=(output,),
                options=types.SimpleNamespace(**options),
            )
        )
        return output

    def graph(self, inputs, outputs) -> Graph:
        return Graph(
            pathlib.Path("written_by_hand.tflite"),
            tuple(self.tensors),
            operators=tuple(self.operators),
            inputs=tuple(inputs),
            outputs=tuple(outputs),
            size_bytes=0,
        )


def single(
    kind, shape, result, *constants, type_name="INT8", result_type=None, signature=None, **options
) -> Graph:
    """One operator: one image of a shape, then constants (arrays of int32 or (array, type))."""
    builder = Builder()
    image = builder.tensor(shape, type_name, signature=signature)
    inputs = [image]
    for constant in constants:
        values, name = constant if isinstance(constant, tuple) else (constant, "INT32")
        inputs.append(builder.constant(values, name))
    output = builder.operator(kind, inputs, result, result_type or type_name, **options)
    return builder.graph([image], [output])

"""Makes constants of all inputs of a file but one: the style of a picture, a threshold, a state."""

import pathlib
from collections.abc import Mapping

import numpy as np

from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph


def inputs_advice(graph: Graph) -> str:
    """Returns what to do with a file of several inputs, for messages.

    Args:
        graph: the file.
    """
    names = [graph.tensors[index].name for index in graph.inputs]
    return (
        f"make constants of all but one of {', '.join(map(repr, names))}: python -m "
        f"tflite_tools.fix_inputs --model={graph.path} --constant={names[-1]}=VALUE "
        f"--output={graph.path.stem}_fixed.tflite"
    )


def with_fixed_inputs(path: pathlib.Path, values: Mapping[str, np.ndarray]) -> bytes:
    """Returns the file with one input; the others are constants.

    Args:
        path: the `.tflite`.
        values: {name of an input: its real values, of its shape or one that broadcasts to it}.

    Raises:
        ValueError: no input has a name, not exactly one is left, or a value does not fit.
    """
    graph = read_graph(path)
    inputs = {graph.tensors[index].name: graph.tensors[index] for index in graph.inputs}
    if unknown := [name for name in values if name not in inputs]:
        raise ValueError(f"{path}: no input {unknown[0]!r}; it has {', '.join(map(repr, inputs))}")
    left = [name for name in inputs if name not in values]
    if len(left) != 1 or len(inputs) != len(graph.inputs):
        raise ValueError(
            f"{path}: expected one input without a constant, got {len(left)} "
            f"({', '.join(map(repr, left)) or 'none'}); give --constant for all but one"
        )
    editor = Editor(read_model_bytes(path), name=str(path))
    constants = {}
    for name, value in values.items():
        tensor = inputs[name]
        stored = _stored(path, tensor, value=np.asarray(value))
        quantization = editor.tensor(tensor.index).quantization
        constants[tensor.index] = editor.add_constant(name, stored, quantization=quantization)
    for operator in editor.graph.operators:
        operator.inputs = np.array(
            [constants.get(int(i), int(i)) for i in operator.inputs], np.int32
        )
    editor.graph.inputs = np.array([inputs[left[0]].index], np.int32)
    editor.model.signatureDefs = None  # they name the old inputs
    return editor.to_bytes()


def _stored(path: pathlib.Path, tensor: Tensor, *, value: np.ndarray) -> np.ndarray:
    """Returns real values in the type of an input."""
    where = f"{path}: constant of {tensor.name!r}"
    try:
        real = np.broadcast_to(value.astype(np.float64), tensor.shape)
    except ValueError as error:
        raise ValueError(
            f"{where}: expected one number or the shape {list(tensor.shape)}, got "
            f"{list(value.shape)} of {value.dtype}"
        ) from error
    if not np.isfinite(real).all():
        raise ValueError(f"{where}: expected finite numbers, got NaN or infinity")
    if tensor.is_float and tensor.type_name == "FLOAT32":
        return real.astype(np.float32)
    if tensor.dtype is None or tensor.dtype.kind not in "iu":
        raise ValueError(f"{where}: expected a float32 or integer input, got {tensor.type_name}")
    if tensor.quantization is not None:
        scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zero_point[0]
        limits = np.iinfo(tensor.dtype)
        steps = np.round(real / scale) + zero_point
        return np.clip(steps, limits.min, limits.max).astype(tensor.dtype)
    return np.round(real).astype(tensor.dtype)

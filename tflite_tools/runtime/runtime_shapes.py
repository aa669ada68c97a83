"""Finds shapes that a file does not store, or stores wrongly, by running it.

Some converters store the shape of a tensor of unknown size as [], and some graphs were edited
without their shapes. The runtime uses neither: it computes each shape from the inputs. One run on
zeros, in a child process with the builtin kernels, gives them.
"""

import dataclasses
import pathlib

import numpy as np

from tflite_tools.flatbuffer.graph import MAX_RANK, Graph
from tflite_tools.flatbuffer.graph_checks import has_unknown_shapes
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.file_interpreter import AnyFile, FileInterpreter
from tflite_tools.runtime.interpreter import Kernels

TIMEOUT_S = 120.0


def with_known_shapes(graph: Graph, outputs: bool = False) -> Graph:
    """Returns the graph itself, or, if an image or a matrix has no shape, one with known shapes.

    Args:
        graph: the file.
        outputs: also run it for a first output of shape [], which may really be a scalar.

    Raises:
        ValueError: the runtime does not give the shape of an image or a matrix.
    """
    if has_unknown_shapes(graph):
        running = with_runtime_shapes(graph)
        if has_unknown_shapes(running):
            raise ValueError(f"{graph.path}: damaged .tflite (an image or a matrix has shape [])")
        return running
    if outputs and not graph.tensors[graph.outputs[0]].shape:
        try:
            return with_runtime_shapes(graph)
        except ValueError:
            return graph
    return graph


def with_runtime_shapes(graph: Graph) -> Graph:
    """Returns the same graph with the shape that each computed tensor has when it runs.

    Args:
        graph: the file.

    Raises:
        ValueError: the runtime refuses the file or crashes, so that shapes stay unknown.
    """
    found = _run_for_shapes(graph.path)
    computed = {index for operator in graph.operators for index in operator.outputs}
    tensors = tuple(
        dataclasses.replace(tensor, shape=found[tensor.index], shape_signature=found[tensor.index])
        if tensor.index in computed and found.get(tensor.index, tensor.shape) != tensor.shape
        else tensor
        for tensor in graph.tensors
    )
    return dataclasses.replace(graph, tensors=tensors)


_READ_AS_WEIGHTS = ("DEQUANTIZE", "DENSIFY")
"""Operators of stored weights that readers of a graph compute themselves."""


def with_constant_values(graph: Graph) -> Graph:
    """Returns the graph with the values of tensors that depend on no input, as if stored.

    Converters leave shapes, and the indices of a gather, as operators on constants. Where the
    runtime refuses the file, the graph is returned as it is.

    Args:
        graph: the file, with known shapes.
    """
    known: set[int] = set()
    for operator in graph.operators:
        inputs = [index for index in operator.inputs if index >= 0]
        fixed = all(index in known or graph.tensors[index].data is not None for index in inputs)
        if operator.kind == "SHAPE" or (fixed and operator.kind not in _READ_AS_WEIGHTS):
            known |= set(operator.outputs)
    if not known:
        return graph
    file = AnyFile(graph.path, Kernels.BUILTIN, keep_tensors=True)
    with ChildPool([file], 1, timeout_s=TIMEOUT_S) as pool:
        [outcome] = pool.run([Task(0, _values_on_zeros, arguments=(tuple(known),))])
    if outcome.failure:
        return graph
    values = outcome.value
    tensors = tuple(
        dataclasses.replace(tensor, data=values[tensor.index], shape=values[tensor.index].shape)
        if tensor.index in values
        else tensor
        for tensor in graph.tensors
    )
    return dataclasses.replace(graph, tensors=tensors)


def _values_on_zeros(file: FileInterpreter, wanted: tuple[int, ...]) -> dict[int, np.ndarray]:
    file.shapes_on_zeros()
    return {index: file.tensor(index) for index in wanted}


def _run_for_shapes(path: pathlib.Path) -> dict[int, tuple[int, ...]]:
    with ChildPool([AnyFile(path, Kernels.BUILTIN)], 1, timeout_s=TIMEOUT_S) as pool:
        [outcome] = pool.run([Task(0, FileInterpreter.shapes_on_zeros, arguments=())])
    if outcome.failure:
        raise ValueError(
            f"{path}: the size of a tensor is known only at run time, and the file does not run: "
            f"{outcome.failure}"
        )
    return {index: shape for index, shape in outcome.value.items() if len(shape) <= MAX_RANK}

"""Finds shapes that a file does not store, or stores wrongly, by running it.

Some converters store the shape of a tensor of unknown size as [], and some graphs were edited
without their shapes. The runtime uses neither: it computes each shape from the inputs. One run on
zeros, in a child process with the builtin kernels, gives them.
"""

import dataclasses
import multiprocessing
import pathlib
from multiprocessing.connection import Connection

import numpy as np

from tflite_tools.flatbuffer.graph import MAX_RANK, Graph
from tflite_tools.flatbuffer.graph_checks import has_unknown_shapes
from tflite_tools.runtime.interpreter import Kernels, open_interpreter

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


def _run_for_shapes(path: pathlib.Path) -> dict[int, tuple[int, ...]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(theirs, str(path)), daemon=True)
    child.start()
    theirs.close()
    try:
        answered = ours.poll(TIMEOUT_S)
        shapes, failure = ours.recv() if answered else ({}, f"no answer within {TIMEOUT_S:.0f} s")
    except EOFError:
        shapes, failure = {}, "it crashed the runtime"
    finally:
        ours.close()
        child.kill()
        child.join(10)
        child.close()
    if failure:
        raise ValueError(
            f"{path}: the size of a tensor is known only at run time, and the file does not run: "
            f"{failure}"
        )
    return shapes


def _serve(connection: Connection, path: str) -> None:
    """Sends {index: shape} of all tensors, or the failure; runs in the child process."""
    try:
        interpreter, _ = open_interpreter(path, kernels=Kernels.BUILTIN)
        for details in interpreter.get_input_details():
            zeros = np.zeros(details["shape"], details["dtype"])
            interpreter.set_tensor(details["index"], zeros)
        interpreter.invoke()
        shapes = {
            int(details["index"]): tuple(int(size) for size in details["shape"])
            for details in interpreter.get_tensor_details()
        }
        connection.send(({i: s for i, s in shapes.items() if len(s) <= MAX_RANK}, ""))
    except Exception as error:
        connection.send(({}, " ".join(str(error).split()) or type(error).__name__))

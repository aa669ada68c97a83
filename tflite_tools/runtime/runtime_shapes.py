"""Shapes that a file does not store, or stores stale: the runtime computes them.

Some converters store the shape of a tensor whose size they do not know as [], and some graphs
were edited without their shapes. The runtime takes neither as it stands: it computes each shape
from the inputs. So one run on zeros, in a child process with the built-in kernels, tells them.
"""

import dataclasses
import multiprocessing
import pathlib

import numpy as np

from tflite_tools.flatbuffer.graph import MAX_RANK, Graph, has_unknown_shapes
from tflite_tools.runtime.interpreter import Kernels, open_interpreter

TIMEOUT_S = 120.0


def with_known_shapes(graph: Graph, outputs: bool = False) -> Graph:
    """The graph itself, or, where an image or a matrix has no shape, the one that runs.

    Args:
        graph: the file.
        outputs: ask for a first output of shape [], too, which may be a scalar indeed.

    Raises:
        ValueError: the runtime does not tell the shape of an image or a matrix.
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
    """The same graph with the shape that each computed tensor has when it runs.

    Raises:
        ValueError: the runtime refuses or crashes, so that nobody knows them.
    """
    found = _ask(graph.path)
    computed = {index for operator in graph.operators for index in operator.outputs}
    tensors = tuple(
        dataclasses.replace(tensor, shape=found[tensor.index], shape_signature=found[tensor.index])
        if tensor.index in computed and found.get(tensor.index, tensor.shape) != tensor.shape
        else tensor
        for tensor in graph.tensors
    )
    return dataclasses.replace(graph, tensors=tensors)


def _ask(path: pathlib.Path) -> dict[int, tuple[int, ...]]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_serve, args=(theirs, str(path)), daemon=True)
    child.start()
    theirs.close()
    try:
        answered = ours.poll(TIMEOUT_S)
        shapes, failure = ours.recv() if answered else ({}, f"no answer in {TIMEOUT_S:.0f} s")
    except EOFError:
        shapes, failure = {}, "it crashed the runtime"
    finally:
        ours.close()
        child.kill()
        child.join(10)
        child.close()
    if failure:
        raise ValueError(
            f"{path}: the size of a tensor is known only when it runs, and it does not: {failure}"
        )
    return shapes


def _serve(connection, path: str) -> None:
    """Runs in the child."""
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

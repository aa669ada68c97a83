"""Gives a file of any image size one size, as phones, browsers and accelerators require.

The runtime computes the shape of every tensor for that size. They are stored, and the operators
that compute shapes while the network runs (SHAPE and what reads it) become constants.
"""

import pathlib

import numpy as np

from deeplab_tf.scratch import scratch_folder
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.file_interpreter import AnyFile, FileInterpreter
from tflite_tools.runtime.interpreter import Kernels

TIMEOUT_S = 120.0


def has_any_size(image: Tensor) -> bool:
    """Returns whether an image input has no height and width of its own.

    Args:
        image: the input.
    """
    signature = image.shape_signature
    open_sides = len(signature) == 4 and min(signature[1:3]) < 1
    return open_sides and min(image.shape[1:3]) <= 1


def size_advice(path: pathlib.Path) -> str:
    """Returns what to do with a file of any size, for messages.

    Args:
        path: the file.
    """
    return (
        "takes images of any size, and needs one: python -m tflite_tools.fix_size "
        f"--model={path} --size=HEIGHT,WIDTH --output={path.stem}_fixed.tflite"
    )


def with_fixed_size(path: pathlib.Path, size: tuple[int, int]) -> bytes:
    """Returns the file with an input of one size.

    Args:
        path: the `.tflite`.
        size: height and width.

    Raises:
        ValueError: the input is no image, or the network does not run at that size.
    """
    graph = read_graph(path)
    image = graph.tensors[graph.inputs[0]]
    if len(image.shape) != 4:
        raise ValueError(f"{path}: expected an image input, got {list(image.shape)}")
    editor = Editor(read_model_bytes(path), name=str(path))
    tensor = editor.tensor(image.index)
    tensor.shape, tensor.shapeSignature = np.array([1, *size, image.shape[3]], np.int32), None
    content = editor.to_bytes()
    graph, shapes, values = _run(content, path=path, size=size)
    editor = Editor(content, name=str(path))
    for index, found in shapes.items():
        if index >= len(graph.tensors):  # temporary ones of a kernel
            continue
        tensor = editor.tensor(index)
        if not editor.is_constant(index):
            tensor.shape, tensor.shapeSignature = np.array(found, np.int32), None
    replaced = {
        index: editor.add_constant(editor.name(index), value) for index, value in values.items()
    }
    for operator in editor.graph.operators:
        operator.inputs = np.array([replaced.get(int(i), int(i)) for i in operator.inputs])
    editor.graph.outputs = [replaced.get(int(i), int(i)) for i in editor.graph.outputs]
    editor.drop_unread_operators()
    return editor.to_bytes()


def _computed_from_shapes(graph: Graph) -> set[int]:
    """Returns the tensors that depend on shapes and constants alone."""
    known: set[int] = set()
    for operator in graph.operators:
        inputs = [index for index in operator.inputs if index >= 0]
        if operator.kind == "SHAPE" or (
            any(index in known for index in inputs)
            and all(index in known or graph.tensors[index].data is not None for index in inputs)
        ):
            known |= set(operator.outputs)
    return known


def _run(
    content: bytes, *, path: pathlib.Path, size: tuple[int, int]
) -> tuple[Graph, dict[int, tuple[int, ...]], dict[int, np.ndarray]]:
    """Returns the graph, the shape of every tensor, and the values that depend on shapes alone."""
    with scratch_folder("size") as folder:
        copy = folder / "sized.tflite"
        copy.write_bytes(content)
        graph = read_graph(copy)
        wanted = tuple(sorted(_computed_from_shapes(graph)))
        file = AnyFile(copy, Kernels.BUILTIN, keep_tensors=True)
        with ChildPool([file], 1, timeout_s=TIMEOUT_S) as pool:
            [outcome] = pool.run([Task(0, _shapes_and_values, arguments=(wanted,))])
    if outcome.failure:
        raise ValueError(
            f"{path}: the network does not run at {size[0]} x {size[1]} ({outcome.failure}); "
            "give a size that it was made for, often a multiple of 32"
        )
    return graph, *outcome.value


def _shapes_and_values(
    file: FileInterpreter, wanted: tuple[int, ...]
) -> tuple[dict[int, tuple[int, ...]], dict[int, np.ndarray]]:
    return file.shapes_on_zeros(), {index: file.tensor(index) for index in wanted}

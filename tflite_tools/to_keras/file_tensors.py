"""Reads the values of any tensors of a file as the runtime computes them, in a child process."""

import pathlib

import numpy as np

from deeplab_tf.scratch import scratch_folder
from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.file_interpreter import AnyFile, FileInterpreter
from tflite_tools.runtime.interpreter import Kernels

PATIENCE_S = 300.0
"""Longest time for loading a file and running it on all inputs."""


def with_outputs(content: bytes, tensors: list[int]) -> bytes:
    """Returns the file with other tensors as its outputs.

    Delegated kernels do not keep intermediate tensors, but they write every output.

    Args:
        content: the `.tflite`.
        tensors: indices of computed tensors.
    """
    editor = Editor(content)
    editor.graph.outputs = tensors
    editor.model.signatureDefs = None  # they name the old outputs
    return editor.to_bytes()


def run_tensors(
    path: str | pathlib.Path,
    tensors: list[int],
    *,
    inputs: list[np.ndarray],
    position: int = 0,
    kernels: Kernels | None = None,
) -> tuple[list[list[np.ndarray]], Kernels]:
    """Runs a file on some inputs.

    Args:
        path: the file.
        tensors: indices of computed tensors.
        inputs: one array per run, in the type of the file's input.
        position: which of the file's inputs receives them; the others are zero.
        kernels: kernels to use; None: XNNPACK's, or the built-in ones where XNNPACK rejects the
            file.

    Returns:
        Per input the values of each tensor, in the tensor's own type; and the kernels that ran.

    Raises:
        RuntimeError: the runtime rejects the file, crashes, or does not answer.
    """
    with scratch_folder("tensors") as folder:
        copy = folder / "tensors.tflite"
        copy.write_bytes(with_outputs(read_model_bytes(path), tensors))
        file = AnyFile(copy, kernels)
        with ChildPool([file], 1, timeout_s=PATIENCE_S) as pool:
            [outcome] = pool.run([Task(0, _values, arguments=(inputs, position))])
    if outcome.failure:
        raise RuntimeError(f"{path}: {outcome.failure}")
    return outcome.value  # type: ignore[return-value]


def _values(
    file: FileInterpreter, inputs: list[np.ndarray], position: int
) -> tuple[list[list[np.ndarray]], Kernels]:
    found = []
    for value in inputs:
        file.set_input(value, position)
        file.invoke()
        found.append(file.outputs())
    return found, file.kernels

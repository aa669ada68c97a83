"""What the runtime of this machine computes: what every device is compared with."""

import dataclasses
import pathlib

import numpy as np

from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.file_interpreter import AnyFile, FileInterpreter
from tflite_tools.runtime.interpreter import Kernels

Outputs = list[list[np.ndarray]]
"""Raw outputs by picture, then by position in the file's list."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """Outputs of the runtime here.

    Attributes:
        kernels: XNNPACK's, or the builtin ones where XNNPACK refuses the file.
        outputs: of these kernels.
        builtin: of the builtin kernels, or None where they do not run the file.
    """

    kernels: Kernels
    outputs: Outputs
    builtin: Outputs | None


def run_reference(path: pathlib.Path, inputs: list[np.ndarray]) -> Reference:
    """Runs a file here, with both sets of kernels.

    Args:
        path: the file.
        inputs: values of its input, one array per picture.

    Raises:
        RuntimeError: the runtime refuses the file, or crashes.
    """
    files = [AnyFile(path), AnyFile(path, Kernels.BUILTIN)]
    with ChildPool(files, processes=1) as pool:
        tasks = [Task(index, run_all, arguments=(inputs,)) for index in range(len(files))]
        first, second = sorted(pool.run(tasks), key=lambda outcome: outcome.task.model)
    if first.failure:
        raise RuntimeError(f"{path}: {first.failure}")
    kernels, outputs = first.value
    return Reference(kernels, outputs, builtin=None if second.failure else second.value[1])


def run_all(file: FileInterpreter, inputs: list[np.ndarray]) -> tuple[Kernels, Outputs]:
    """Runs a file on every input, in a child process.

    Args:
        file: the file.
        inputs: one array per picture.

    Returns:
        Its kernels, and its outputs.
    """
    found = []
    for values in inputs:
        file.set_input(values)
        file.invoke()
        found.append(file.outputs())
    return file.kernels, found

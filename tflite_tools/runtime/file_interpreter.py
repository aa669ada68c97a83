"""Runs any one file: values of its input in, values of its outputs out."""

import dataclasses
import pathlib
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.interpreter import Kernels, open_interpreter
from tflite_tools.runtime.memory import needed_bytes_of


@dataclasses.dataclass(frozen=True)
class AnyFile:
    """A file that is run without a contract: any input, any output.

    Attributes:
        path: of the file.
        kernels: which to use; None: XNNPACK's, or the builtin ones if it refuses the file.
        keep_tensors: whether tensors between input and output can be read.
    """

    path: pathlib.Path
    kernels: Kernels | None = None
    keep_tensors: bool = False

    def open(self, num_threads: int) -> "FileInterpreter":
        """Opens its interpreter."""
        return FileInterpreter(
            self.path, num_threads, kernels=self.kernels, keep_tensors=self.keep_tensors
        )

    def memory_bytes(self) -> int:
        """Returns the most memory that it should take."""
        return needed_bytes_of(self.path)


class FileInterpreter:
    """The interpreter of one file, fed and read in the tensors' own types.

    Args:
        path: of the file.
        num_threads: of the interpreter.
        kernels: which to use; None: XNNPACK's, or the builtin ones if it refuses the file.
        keep_tensors: whether tensors between input and output can be read.

    Attributes:
        kernels: kernels that run.

    Raises:
        RuntimeError: the runtime refuses the file.
        ValueError: the file cannot be read.
    """

    def __init__(
        self,
        path: pathlib.Path,
        num_threads: int = 1,
        *,
        kernels: Kernels | None = None,
        keep_tensors: bool = False,
    ) -> None:
        with warnings.catch_warnings():
            if keep_tensors:  # about the memory that this takes, which is intended
                warnings.simplefilter("ignore")
            self._interpreter, self.kernels = open_interpreter(
                path, num_threads, kernels=kernels, preserve_all_tensors=keep_tensors
            )
        self._inputs = self._interpreter.get_input_details()
        self._outputs = self._interpreter.get_output_details()
        for details in self._inputs[1:]:
            zeros = np.zeros(details["shape"], details["dtype"])
            self._interpreter.set_tensor(details["index"], zeros)

    def set_input(self, values: np.ndarray, position: int = 0) -> None:
        """Sets one of the inputs; the others hold zeros.

        Args:
            values: of the input's own type and shape.
            position: of the input in the file's list of inputs.
        """
        self._interpreter.set_tensor(self._inputs[position]["index"], values)

    def invoke(self) -> None:
        """Runs the network once."""
        self._interpreter.invoke()

    def invoke_ms(self) -> float:
        """Runs the network once; returns the milliseconds that it takes."""
        started = time.perf_counter()
        self.invoke()
        return (time.perf_counter() - started) * 1e3

    def output(self, position: int = 0) -> np.ndarray:
        """Returns a raw output of the last `invoke`.

        Args:
            position: of the output in the file's list of outputs.
        """
        return self._interpreter.get_tensor(self._outputs[position]["index"])

    def outputs(self) -> list[np.ndarray]:
        """Returns all raw outputs of the last `invoke`, in the file's order."""
        return [self._interpreter.get_tensor(details["index"]) for details in self._outputs]

    def shapes_on_zeros(self) -> dict[int, tuple[int, ...]]:
        """Runs once on zeros; returns the shape of every tensor by its index in the file."""
        for details in self._inputs:
            zeros = np.zeros(details["shape"], details["dtype"])
            self._interpreter.set_tensor(details["index"], zeros)
        self.invoke()
        return {
            int(details["index"]): tuple(int(size) for size in details["shape"])
            for details in self._interpreter.get_tensor_details()
        }

    def tensor(self, index: int) -> np.ndarray:
        """Returns any tensor of the last `invoke`; inner ones require `keep_tensors`.

        Args:
            index: of the tensor in the file.
        """
        return self._interpreter.get_tensor(index)

    def run_real(self, real: np.ndarray) -> list[np.ndarray]:
        """Runs the file on one input.

        Args:
            real: float32 [1, ...], the network's input before quantization.

        Returns:
            All outputs as real values, in the file's order.
        """
        self.set_input(_quantize(real, self._inputs[0]))
        self.invoke()
        return [
            _real(value, details)
            for value, details in zip(self.outputs(), self._outputs, strict=True)
        ]


def _real(value: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    return value if not scale else np.float32(scale) * (value.astype(np.float32) - zero_point)


def _quantize(real: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return real.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(real / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


FILE_TIMEOUT_S = 300.0
"""Longest time that loading a file, or one image, may take in a `FileRunner`."""


class FileRunner:
    """Runs any one file image by image in a child process; a crash becomes an exception.

    Integer outputs with a scale are returned as real values.

    Args:
        path: the file.
        num_threads: of the interpreter.
        kernels: which to use; None: XNNPACK's, or the builtin ones if it refuses the file.

    Attributes:
        kernels: kernels that run.

    Raises:
        RuntimeError: the runtime refuses the file, or crashes; the message has the reason.
    """

    def __init__(
        self, path: str | pathlib.Path, num_threads: int = 1, *, kernels: Kernels | None = None
    ) -> None:
        self._path = path
        file = AnyFile(pathlib.Path(path), kernels)
        self._pool = ChildPool([file], 1, num_threads=num_threads, timeout_s=FILE_TIMEOUT_S)
        weakref.finalize(self, self._pool.close)
        self.kernels: Kernels = self._run(_kernels_of)

    def __call__(self, real: np.ndarray) -> np.ndarray:
        """Runs the file on one input.

        Args:
            real: float32 [1, ...], the network's input before quantization.

        Returns:
            The file's output as real values, the first of several.
        """
        return self.outputs(real)[0]

    def outputs(self, real: np.ndarray) -> list[np.ndarray]:
        """Runs the file on one input.

        Args:
            real: float32 [1, ...], the network's input before quantization.

        Returns:
            All outputs as real values, in the file's order.
        """
        return self._run(FileInterpreter.run_real, real)

    def _run(self, function: Callable, *arguments: object) -> Any:
        [outcome] = self._pool.run([Task(0, function, arguments=arguments)])
        if outcome.failure:
            raise RuntimeError(f"{self._path}: {outcome.failure}")
        return outcome.value


def _kernels_of(file: FileInterpreter) -> Kernels:
    return file.kernels

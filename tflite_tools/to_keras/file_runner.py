"""Runs any one file on real values, in a child process: a crash of the runtime is a message."""

import multiprocessing
import pathlib
import signal
import weakref

import numpy as np

from tflite_tools.interpreter import Kernels, open_interpreter

PATIENCE_S = 300.0
"""Longest time that loading a file, or one image, may take."""


class FileRunner:
    """Runs a file image by image; integer outputs with a scale come back as real values.

    Args:
        path: the file.
        num_threads: of the interpreter.
        builtin: the runtime's own kernels instead of XNNPACK's, which run otherwise unless XNNPACK
            refuses the file.

    Attributes:
        kernels: that run.

    Raises:
        RuntimeError: the runtime refuses the file, or crashes, with its reason.
    """

    def __init__(self, path: str | pathlib.Path, num_threads: int = 1, builtin: bool = False):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._path = path
        self._child = context.Process(
            target=_serve, args=(theirs, str(path), num_threads, builtin), daemon=True
        )
        self._child.start()
        theirs.close()
        weakref.finalize(self, _end, self._child, self._connection)
        self.kernels: Kernels = self._receive()

    def __call__(self, real: np.ndarray) -> np.ndarray:
        """float32 [1, ...], the network's real input -> the file's output as real values."""
        self._connection.send(real)
        return self._receive()

    def _receive(self):
        if not self._connection.poll(PATIENCE_S):
            raise RuntimeError(f"{self._path} gave no answer in {PATIENCE_S:.0f} s")
        try:
            value, failure = self._connection.recv()
        except EOFError as error:
            self._child.join(10)
            code = self._child.exitcode or 0
            cause = signal.Signals(-code).name if code < 0 else f"exit status {code}"
            raise RuntimeError(f"{self._path} crashed the runtime ({cause})") from error
        if failure:
            raise RuntimeError(failure)
        return value


def _end(child, connection) -> None:
    connection.close()
    child.terminate()
    child.join(10)
    child.close()


def _serve(connection, path: str, num_threads: int, builtin: bool) -> None:
    """The child's loop: first whether the file loads, then an answer for each image."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        run = _InProcess(path, num_threads, builtin)
        connection.send((run.kernels, ""))
    except Exception as error:
        connection.send((None, " ".join(str(error).split()) or type(error).__name__))
        return
    while True:
        try:
            real = connection.recv()
        except EOFError:
            return
        try:
            connection.send((run(real), ""))
        except Exception as error:
            connection.send((None, " ".join(str(error).split()) or type(error).__name__))


class _InProcess:
    """The interpreter itself."""

    def __init__(self, path: str, num_threads: int, builtin: bool):
        kernels = Kernels.BUILTIN if builtin else None
        self._interpreter, self.kernels = open_interpreter(path, num_threads, kernels)
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, real: np.ndarray) -> np.ndarray:
        quantized = _quantize(real, self._input)
        self._interpreter.set_tensor(self._input["index"], quantized)
        self._interpreter.invoke()
        value = self._interpreter.get_tensor(self._output["index"])
        scale, zero_point = self._output["quantization"]
        return value if not scale else np.float32(scale) * (value.astype(np.float32) - zero_point)


def _quantize(real: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return real.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(real / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])

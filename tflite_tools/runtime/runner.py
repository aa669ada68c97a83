"""The interpreter of a file, with or without its contract, for the child processes of `pool`."""

import dataclasses
import functools
import pathlib
import resource
import time
import warnings

import numpy as np

from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.tiles import Tiling
from deeplab_tf.metrics.cross_entropy import cross_entropy_sum, dequantize
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.interpreter import Kernels, open_interpreter
from tflite_tools.runtime.output_reader import OutputReader


@dataclasses.dataclass(frozen=True)
class AnyFile:
    """A file that is run without a contract: any input, any output.

    Attributes:
        path: of the file.
        kernels: which to use; None: XNNPACK's, or the builtin ones if it refuses the file.
    """

    path: pathlib.Path
    kernels: Kernels | None = None


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

    def output(self) -> np.ndarray:
        """Returns the raw output of the last `invoke`."""
        return self._interpreter.get_tensor(self._outputs[0]["index"])

    def outputs(self) -> list[np.ndarray]:
        """Returns all raw outputs of the last `invoke`, in the file's order."""
        return [self._interpreter.get_tensor(details["index"]) for details in self._outputs]

    def tensor(self, index: int) -> np.ndarray:
        """Returns any tensor of the last `invoke`; inner ones require `keep_tensors`.

        Args:
            index: of the tensor in the file.
        """
        return self._interpreter.get_tensor(index)

    def run_real(self, real: np.ndarray) -> np.ndarray:
        """Runs the file on one input.

        Args:
            real: float32 [1, ...], the network's input before quantization.

        Returns:
            The output as real values.
        """
        self.set_input(_quantize(real, self._inputs[0]))
        self.invoke()
        value = self.output()
        scale, zero_point = self._outputs[0]["quantization"]
        return value if not scale else np.float32(scale) * (value.astype(np.float32) - zero_point)


def _quantize(real: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return real.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(real / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


class ModelRunner:
    """The interpreter of a file with its contract: takes pixels, returns class maps.

    Attributes:
        contract: of the file.
        kernels: XNNPACK's, or the builtin ones if it refuses the file.

    Raises:
        RuntimeError: the runtime refuses the file.
        ValueError: the file cannot be read.
    """

    def __init__(self, contract: ModelContract, num_threads: int = 1) -> None:
        self.contract = contract
        self._memory_before = _peak_memory_bytes()
        self._file = FileInterpreter(contract.path, num_threads)
        self.kernels = self._file.kernels
        self._table = contract.quantize_table()
        self._shape = (1, contract.height, contract.width, contract.channels)

    @functools.cached_property
    def reader(self) -> OutputReader:
        """Reader of the raw output; only a segmentation model's can be read."""
        return OutputReader.of(self.contract)

    def set_image(self, image: np.ndarray) -> None:
        """Sets the input from pixels, normalized and quantized as the file requires.

        Args:
            image: uint8 [height, width, channels], of the input's size.
        """
        if self._table is not None:
            channels = np.arange(self.contract.channels)
            image = (
                self._table[:, 0][image]
                if np.ptp(self._table, axis=1).max() == 0
                else self._table[image, channels]
            )
        self._file.set_input(image.reshape(self._shape))

    def invoke(self) -> None:
        """Runs the network once."""
        self._file.invoke()

    def output(self) -> np.ndarray:
        """Returns the raw output of the last `invoke`."""
        return self._file.output()

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """Runs the network on an image of the input's size.

        Args:
            image: uint8 [height, width, channels].

        Returns:
            Class map [height, width], uint8 for up to 256 classes.
        """
        self.set_image(image)
        self.invoke()
        return self.reader.on_canvas(self.output())

    def cross_entropy(self, label: np.ndarray) -> tuple[float, int]:
        """Computes the cross-entropy of the last `invoke`.

        Args:
            label: uint8 [height, width], on the network's canvas.

        Returns:
            Sum in nats over the labelled pixels, and the number of these pixels.
        """
        logits = self.reader.logits_on_canvas(self.output())
        return cross_entropy_sum(dequantize(logits, self.contract.output_quantization), label)

    def full_size_class_map(self, image: np.ndarray, tile_overlap: int) -> tuple[np.ndarray, int]:
        """Predicts the class map of an image of any size, at its own size.

        Args:
            image: uint8 [source height, source width, channels].
            tile_overlap: least overlap in pixels of the tiles that an image larger than the input
                is cut in; -1 scales every image to fit. Smaller images are always scaled to fit.

        Returns:
            uint8 [source height, source width], and the number of invokes.
        """
        size = (self.contract.height, self.contract.width)
        if tile_overlap >= 0:
            tiling = Tiling(image.shape[0], image.shape[1], *size, tile_overlap)
            if tiling.needed:
                tiles = tiling.tiles()
                maps = (self.class_map(tiling.cut(image, tile)) for tile in tiles)
                return tiling.stitch(maps), len(tiles)
        canvas, placement = place(image, size)
        return placement.restore_label(self.class_map(canvas)), 1

    def memory_mb(self) -> float:
        """Returns the growth of the peak resident memory since loading, in 10^6 bytes."""
        return (_peak_memory_bytes() - self._memory_before) / 1e6

    def invoke_ms(self) -> float:
        """Measures one `invoke` in milliseconds, without feeding and reading."""
        started = time.perf_counter()
        self.invoke()
        return (time.perf_counter() - started) * 1e3


def _peak_memory_bytes() -> int:
    """Returns the peak resident memory of this process.

    It is read from /proc if that exists: getrusage() starts a child at its parent's peak.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

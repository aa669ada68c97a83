"""A file's interpreter, alone or with its contract. Runs in the child processes of `pool`."""

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
    """A file that runs without a contract: any one input, any output.

    Attributes:
        path: of the file.
        kernels: which to use; None: XNNPACK's, or the built-in ones where it refuses the file.
    """

    path: pathlib.Path
    kernels: Kernels | None = None


class FileInterpreter:
    """The interpreter of one file: values of its input in, values of its output out.

    Args:
        path: of the file.
        num_threads: of the interpreter.
        kernels: which to use; None: XNNPACK's, or the built-in ones where it refuses the file.
        keep_tensors: whether tensors between input and output can be read.

    Attributes:
        kernels: that run.

    Raises:
        RuntimeError, ValueError: the runtime refuses the file.
    """

    def __init__(
        self,
        path: pathlib.Path,
        num_threads: int = 1,
        *,
        kernels: Kernels | None = None,
        keep_tensors: bool = False,
    ):
        with warnings.catch_warnings():
            if keep_tensors:  # of the memory that this takes: it is what we want
                warnings.simplefilter("ignore")
            self._interpreter, self.kernels = open_interpreter(
                path, num_threads, kernels=kernels, preserve_all_tensors=keep_tensors
            )
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def set_input(self, values: np.ndarray) -> None:
        """Feeds values in the input's own type and shape."""
        self._interpreter.set_tensor(self._input["index"], values)

    def invoke(self) -> None:
        self._interpreter.invoke()

    def output(self) -> np.ndarray:
        """The raw output of the last `invoke`."""
        return self._interpreter.get_tensor(self._output["index"])

    def tensor(self, index: int) -> np.ndarray:
        """Any tensor of the last `invoke`; those between need `keep_tensors`."""
        return self._interpreter.get_tensor(index)

    def run_real(self, real: np.ndarray) -> np.ndarray:
        """float32 [1, ...], the network's real input -> the output as real values."""
        self.set_input(_quantize(real, self._input))
        self.invoke()
        value = self.output()
        scale, zero_point = self._output["quantization"]
        return value if not scale else np.float32(scale) * (value.astype(np.float32) - zero_point)


def _quantize(real: np.ndarray, details: dict) -> np.ndarray:
    scale, zero_point = details["quantization"]
    if not scale:
        return real.astype(details["dtype"])
    limits = np.iinfo(details["dtype"])
    steps = np.round(real / np.float32(scale)) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(details["dtype"])


class ModelRunner:
    """A file's interpreter with its contract: pixels in, class map out.

    Attributes:
        contract: the file.
        kernels: XNNPACK's, or the built-in ones where it refuses the file.

    Raises:
        RuntimeError, ValueError: the runtime refuses the file.
    """

    def __init__(self, contract: ModelContract, num_threads: int = 1):
        self.contract = contract
        self._memory_before = _peak_memory_bytes()
        self._file = FileInterpreter(contract.path, num_threads)
        self.kernels = self._file.kernels
        self._table = contract.quantize_table()
        self._shape = (1, contract.height, contract.width, contract.channels)

    @functools.cached_property
    def reader(self) -> OutputReader:
        """Of the raw output; only a segmentation model's can be read."""
        return OutputReader.of(self.contract)

    def set_image(self, image: np.ndarray) -> None:
        """Feeds uint8 [height, width, channels], normalized and quantized as the file wants."""
        if self._table is not None:
            channels = np.arange(self.contract.channels)
            image = (
                self._table[:, 0][image]
                if np.ptp(self._table, axis=1).max() == 0
                else self._table[image, channels]
            )
        self._file.set_input(image.reshape(self._shape))

    def invoke(self) -> None:
        self._file.invoke()

    def output(self) -> np.ndarray:
        """The raw output of the last `invoke`."""
        return self._file.output()

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """[height, width] for uint8 [height, width, channels]: uint8 up to 256 classes."""
        self.set_image(image)
        self.invoke()
        return self.reader.on_canvas(self.output())

    def cross_entropy(self, label: np.ndarray) -> tuple[float, int]:
        """Of the last `invoke`: sum in nats over labelled pixels, and how many they are.

        Args:
            label: uint8 [height, width], on the network's canvas.
        """
        logits = self.reader.logits_on_canvas(self.output())
        return cross_entropy_sum(dequantize(logits, self.contract.output_quantization), label)

    def full_size_class_map(self, photo: np.ndarray, tile_overlap: int) -> tuple[np.ndarray, int]:
        """Class map of a whole photo at its own size.

        Args:
            photo: uint8 [source height, source width, channels].
            tile_overlap: least overlap in pixels of the tiles that a photo larger than the input
                is cut in, or -1: every photo is scaled to fit. Others are scaled to fit always.

        Returns:
            uint8 [source height, source width], and how many invokes it took.
        """
        size = (self.contract.height, self.contract.width)
        if tile_overlap >= 0:
            tiling = Tiling(photo.shape[0], photo.shape[1], *size, tile_overlap)
            if tiling.needed:
                tiles = tiling.tiles()
                maps = (self.class_map(tiling.cut(photo, tile)) for tile in tiles)
                return tiling.stitch(maps), len(tiles)
        canvas, placement = place(photo, size)
        return placement.restore_label(self.class_map(canvas)), 1

    def memory_mb(self) -> float:
        """Peak resident memory that this process gained since the file was loaded, 10^6 bytes."""
        return (_peak_memory_bytes() - self._memory_before) / 1e6

    def invoke_ms(self) -> float:
        """Milliseconds of one `invoke`, without feeding and reading."""
        started = time.perf_counter()
        self.invoke()
        return (time.perf_counter() - started) * 1e3


def _peak_memory_bytes() -> int:
    """Peak resident memory of this process.

    From /proc where there is one: getrusage() starts a child at its parent's peak.
    """
    status = pathlib.Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

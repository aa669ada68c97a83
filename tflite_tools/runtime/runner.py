"""The interpreter of a file, with or without its contract, for the child processes of `pool`."""

import functools
import pathlib
import resource
import time

import numpy as np

from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.tiles import Tiling
from deeplab_tf.metrics.cross_entropy import cross_entropy_sum, dequantize
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.file_interpreter import FileInterpreter
from tflite_tools.runtime.output_reader import OutputReader


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
        self._file.set_input(self.contract.arranged(image))

    def invoke(self) -> None:
        """Runs the network once."""
        self._file.invoke()

    def output(self) -> np.ndarray:
        """Returns the raw output of the last `invoke`, with its channels last."""
        return self.contract.arranged_output(self._file.output(self.contract.output_position))

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

"""One interpreter with its contract: pixels in, class map out. Runs in child processes."""

import pathlib
import resource
import time

import numpy as np

from deeplab_tf.data.preprocessing import place
from deeplab_tf.data.tiles import Tiling
from tflite_tools.contract import ModelContract
from tflite_tools.cross_entropy import cross_entropy_sum, dequantize
from tflite_tools.prediction import OutputReader


class ModelRunner:
    """Holds an interpreter with XNNPACK and a fixed number of threads.

    Raises:
        RuntimeError, ValueError: the runtime refuses the file.
    """

    def __init__(self, contract: ModelContract, num_threads: int = 1):
        # The runtime writes to stderr when it is loaded; only children that run files load it.
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415

        self.contract = contract
        self._memory_before = _peak_memory_bytes()
        self._interpreter = Interpreter(str(contract.path), num_threads=num_threads)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._table = contract.quantize_table()
        self._shape = (1, contract.height, contract.width, contract.channels)
        self.reader = OutputReader.of(contract)

    def set_image(self, image: np.ndarray) -> None:
        """Feeds uint8 [height, width, channels], normalized and quantized as the file wants."""
        if self._table is not None:
            channels = np.arange(self.contract.channels)
            image = (
                self._table[:, 0][image]
                if np.ptp(self._table, axis=1).max() == 0
                else self._table[image, channels]
            )
        self._interpreter.set_tensor(self._input, image.reshape(self._shape))

    def invoke(self) -> None:
        self._interpreter.invoke()

    def output(self) -> np.ndarray:
        """The raw output of the last `invoke`."""
        return self._interpreter.get_tensor(self._output)

    def class_map(self, image: np.ndarray) -> np.ndarray:
        """uint8 [height, width] for uint8 [height, width, channels]."""
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

    def photo_class_map(self, photo: np.ndarray, tile_overlap: int) -> tuple[np.ndarray, int]:
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
        canvas, placement = place(photo, *size)
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

"""Measures statistics of every tensor between a file's operators, in child processes.

With a reference, both files run on the same photos, and each tensor is compared with its
counterpart of the same name.
"""

import dataclasses

import numpy as np

from deeplab_tf.metrics.signal_to_noise import snr_db
from tflite_tools.contract import ModelContract
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.runtime.file_interpreter import FileInterpreter
from tflite_tools.runtime.runner import ModelRunner

BINS = 256
"""Of the histogram of an integer tensor: all values of 8 bits, the top 8 bits of 16."""


@dataclasses.dataclass
class Comparison:
    """A tensor compared with the reference's, summed over photos.

    Attributes:
        signal: sum of the reference's squares.
        noise: sum of squared differences.
        below, above: reference values outside the range that the tensor can hold.
        values: number of reference values.
        low, high: float32 [channels], the reference's range.
    """

    signal: float
    noise: float
    below: int
    above: int
    values: int
    low: np.ndarray
    high: np.ndarray

    def add(self, other: "Comparison") -> None:
        """Adds another photo.

        Args:
            other: of the same tensor.
        """
        self.signal += other.signal
        self.noise += other.noise
        self.below += other.below
        self.above += other.above
        self.values += other.values
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)

    @property
    def snr_db(self) -> float:
        """10 log10(signal / noise); infinite without noise."""
        return snr_db(max(self.signal, 1e-30), self.noise)


@dataclasses.dataclass
class LayerStatistics:
    """Statistics of one tensor over the photos of the sample.

    Attributes:
        values: number of values.
        histogram: int64 [BINS] of an integer tensor, or None.
        low, high: [channels], smallest and largest value, in the tensor's own type.
        at_low, at_high: int64 [channels], values at the ends of an integer type.
        comparison: with the reference, or None.
    """

    values: int
    histogram: np.ndarray | None
    low: np.ndarray
    high: np.ndarray
    at_low: np.ndarray
    at_high: np.ndarray
    comparison: Comparison | None = None

    def add(self, other: "LayerStatistics") -> None:
        """Adds another photo.

        Args:
            other: of the same tensor.
        """
        self.values += other.values
        if self.histogram is not None and other.histogram is not None:
            self.histogram = self.histogram + other.histogram
        self.low = np.minimum(self.low, other.low)
        self.high = np.maximum(self.high, other.high)
        self.at_low = self.at_low + other.at_low
        self.at_high = self.at_high + other.at_high
        if self.comparison is not None and other.comparison is not None:
            self.comparison.add(other.comparison)

    @property
    def used_share(self) -> float:
        """Fraction of the integer range between the 0.1 and the 99.9 percentile."""
        if self.histogram is None:
            return 1.0
        below = np.cumsum(self.histogram) / max(self.values, 1)
        low, high = np.searchsorted(below, (0.001, 0.999))
        return float(high - low + 1) / BINS


class TensorReader:
    """An interpreter that keeps every intermediate tensor."""

    def __init__(self, contract: ModelContract) -> None:
        self._file = FileInterpreter(contract.path, keep_tensors=True)
        self._contract = contract
        self._table = contract.quantize_table()

    def run(self, image: np.ndarray) -> None:
        """Runs the file once.

        Args:
            image: uint8 [height, width, channels], on the file's canvas.
        """
        if self._table is not None:
            image = self._table[image, np.arange(image.shape[2])]
        self._file.set_input(self._contract.arranged(image))
        self._file.invoke()

    def values(self, tensor: int) -> np.ndarray:
        """Returns the values of a tensor.

        Args:
            tensor: its index in the file.

        Returns:
            [rows, channels], in the tensor's own type.
        """
        found = self._file.tensor(tensor)
        return found.reshape(-1, found.shape[-1])


_readers: dict[ModelContract, TensorReader] = {}
"""Of this process, by file and normalization."""


def _reader(contract: ModelContract) -> TensorReader:
    if contract not in _readers:
        _readers[contract] = TensorReader(contract)
    return _readers[contract]


def measured_tensors(graph: Graph) -> list[Tensor]:
    """Returns the computed tensors of an image's rank that hold integers or floats with channels.

    Class maps are excluded: their values are names, not quantities.

    Args:
        graph: of the file.
    """
    tensors = [graph.tensors[index] for operator in graph.operators for index in operator.outputs]
    return [
        tensor
        for tensor in tensors
        if len(tensor.shape) == 4
        and tensor.shape[0] == 1
        and (tensor.type_name == "FLOAT32" or tensor.quantization is not None)
        and tensor.type_name in ("FLOAT32", "INT8", "UINT8", "INT16")
    ]


def measure_layers(
    runner: ModelRunner,
    image: np.ndarray,
    reference: ModelContract | None,
    pairs: dict[int, int],
) -> dict[int, LayerStatistics]:
    """Runs the file and the reference on one photo; runs in a child process.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels], placed.
        reference: float file of the same canvas, or None.
        pairs: tensor of the reference by tensor of the file.

    Returns:
        Statistics by tensor index of the file.
    """
    graph = _graph(runner.contract)
    reader = _reader(runner.contract)
    reader.run(image)
    other = _reader(reference) if reference else None
    if other:
        other.run(image)
    found = {}
    for tensor in measured_tensors(graph):
        values = reader.values(tensor.index)
        found[tensor.index] = _statistics(values)
        if other and tensor.index in pairs:
            found[tensor.index].comparison = _compare(
                tensor, values, reference=other.values(pairs[tensor.index])
            )
    return found


_graphs: dict[ModelContract, Graph] = {}


def _graph(contract: ModelContract) -> Graph:
    if contract not in _graphs:
        _graphs[contract] = read_graph(contract.path)
    return _graphs[contract]


def _statistics(values: np.ndarray) -> LayerStatistics:
    low, high = values.min(0), values.max(0)
    none = np.zeros(values.shape[1], np.int64)
    if values.dtype.kind == "f":
        return LayerStatistics(values.size, None, low=low, high=high, at_low=none, at_high=none)
    limits = np.iinfo(values.dtype)
    return LayerStatistics(
        values.size,
        _histogram(values),
        low=low,
        high=high,
        # Most tensors reach at most one end: counting is needed only there.
        at_low=(values == limits.min).sum(0) if low.min() == limits.min else none,
        at_high=(values == limits.max).sum(0) if high.max() == limits.max else none,
    )


def _histogram(values: np.ndarray) -> np.ndarray:
    if values.dtype == np.int16:
        values = (values >> 8).astype(np.int8)
    counts = np.bincount(values.reshape(-1).view(np.uint8), minlength=BINS)
    # As bytes, -128..-1 come after 0..127.
    return np.roll(counts, BINS // 2) if values.dtype == np.int8 else counts


def real_limits(tensor: Tensor) -> tuple[float, float]:
    """Returns the smallest and largest real value that a tensor can hold; infinite for floats.

    Args:
        tensor: quantized per tensor, or float.
    """
    if tensor.quantization is None or tensor.is_float or tensor.dtype is None:
        return -np.inf, np.inf
    limits = np.iinfo(tensor.dtype)
    scale = float(tensor.quantization.scale[0])
    zero_point = int(tensor.quantization.zero_point[0])
    return scale * (limits.min - zero_point), scale * (limits.max - zero_point)


def _compare(tensor: Tensor, values: np.ndarray, *, reference: np.ndarray) -> Comparison:
    """Compares in float32: a hundredth of a decibel is enough, and BLAS adds blockwise."""
    real = values.astype(np.float32)
    slack = 0.0
    if tensor.quantization is not None and not tensor.is_float:
        slack = float(tensor.quantization.scale[0])
        real -= np.float32(tensor.quantization.zero_point[0])
        real *= np.float32(slack)
    real -= reference
    low, high = reference.min(0), reference.max(0)
    lowest, highest = real_limits(tensor)
    lowest, highest = lowest - slack, highest + slack
    return Comparison(
        signal=float(np.vdot(reference, reference)),
        noise=float(np.vdot(real, real)),
        below=int((reference < lowest).sum()) if low.min() < lowest else 0,
        above=int((reference > highest).sum()) if high.max() > highest else 0,
        values=reference.size,
        low=low,
        high=high,
    )

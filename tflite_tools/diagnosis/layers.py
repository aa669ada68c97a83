"""Statistics of every tensor that flows between a file's operators. Runs in child processes.

With a reference, the same photos run through both files, and each tensor is compared with the
one of its name.
"""

import dataclasses

import numpy as np

from deeplab_tf.metrics.signal_to_noise import snr_db
from tflite_tools.contract import ModelContract
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.runtime.runner import FileInterpreter, ModelRunner

BINS = 256
"""Of the histogram of an integer tensor: all values of 8 bits, the top 8 bits of 16."""


@dataclasses.dataclass
class Comparison:
    """A tensor against the reference's, summed over photos.

    Attributes:
        signal: sum of the reference's squares.
        noise: sum of squared differences.
        below, above: reference values outside the range that the tensor can hold.
        values: how many there were.
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
    """One tensor over all photos that were looked at.

    Attributes:
        values: how many there were.
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
        """Share of the integer range between the 0.1 and the 99.9 percentile."""
        if self.histogram is None:
            return 1.0
        below = np.cumsum(self.histogram) / max(self.values, 1)
        low, high = np.searchsorted(below, (0.001, 0.999))
        return float(high - low + 1) / BINS


class TensorReader:
    """An interpreter that keeps every intermediate tensor."""

    def __init__(self, contract: ModelContract):
        self._file = FileInterpreter(contract.path, keep_tensors=True)
        self._table = contract.quantize_table()

    def run(self, image: np.ndarray) -> None:
        """`image`: uint8 [height, width, channels], on the file's canvas."""
        if self._table is not None:
            image = self._table[image, np.arange(image.shape[2])]
        self._file.set_input(image[None])
        self._file.invoke()

    def values(self, tensor: int) -> np.ndarray:
        """[rows, channels], in the tensor's own type."""
        found = self._file.tensor(tensor)
        return found.reshape(-1, found.shape[-1])


_readers: dict[ModelContract, TensorReader] = {}
"""Of this child, by file and normalization."""


def _reader(contract: ModelContract) -> TensorReader:
    if contract not in _readers:
        _readers[contract] = TensorReader(contract)
    return _readers[contract]


def watched(graph: Graph) -> list[Tensor]:
    """Computed tensors of an image's rank that hold integers or floats with channels.

    Class maps are left out: their values are names, not quantities.
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
    """Runs in a child: one photo through the file, and through the reference.

    Args:
        image: uint8 [height, width, channels], placed.
        reference: float file of the same canvas, or None.
        pairs: tensor of the reference by tensor of the file.

    Returns:
        statistics by tensor index of the file.
    """
    graph = _graph(runner.contract)
    reader = _reader(runner.contract)
    reader.run(image)
    other = _reader(reference) if reference else None
    if other:
        other.run(image)
    found = {}
    for tensor in watched(graph):
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
        # Most tensors touch one end at most: counting channels costs only where they do.
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
    """Smallest and largest real value that a quantized tensor can hold; infinite for floats."""
    if tensor.quantization is None or tensor.is_float or tensor.dtype is None:
        return -np.inf, np.inf
    limits = np.iinfo(tensor.dtype)
    scale = float(tensor.quantization.scale[0])
    zero_point = int(tensor.quantization.zero_point[0])
    return scale * (limits.min - zero_point), scale * (limits.max - zero_point)


def _compare(tensor: Tensor, values: np.ndarray, *, reference: np.ndarray) -> Comparison:
    """Sums in float32: a hundredth of a decibel is enough, and BLAS adds in pieces."""
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

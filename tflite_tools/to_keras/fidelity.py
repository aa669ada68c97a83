"""How closely a rebuilt network follows its file: both run on the same pixels."""

import dataclasses
import pathlib

import numpy as np
import tf_keras as keras
from ai_edge_litert import interpreter as litert

from tflite_tools.to_keras.contract import InputContract


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Agreement of two networks over some images.

    Attributes:
        images: how many were run.
        equal_classes: share of pixels (of images, for a classifier) with the same class.
        largest_difference: of any output value, dequantized; None for class maps.
        correlation: Pearson's, of all output values; None for class maps.
    """

    images: int
    equal_classes: float
    largest_difference: float | None
    correlation: float | None


class FileRunner:
    """Runs a file image by image; integer outputs with a scale come back as real values."""

    def __init__(self, path: str | pathlib.Path, num_threads: int = 1, builtin: bool = False):
        resolver = litert.OpResolverType
        self._interpreter = litert.Interpreter(
            str(path),
            num_threads=num_threads,
            experimental_op_resolver_type=(
                resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES if builtin else resolver.AUTO
            ),
        )
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]

    def __call__(self, real: np.ndarray) -> np.ndarray:
        """float32 [1, ...], the network's real input -> the file's output as real values."""
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


def real_input(pixels: np.ndarray, contract: InputContract) -> np.ndarray:
    """uint8 [1, height, width, channels] -> float32, (pixel - mean) / std.

    Raises:
        ValueError: the contract does not say mean and std.
    """
    if contract.mean is None:
        raise ValueError("the file does not say what its float input means; give --mean and --std")
    return (pixels.astype(np.float32) - contract.mean) / np.float32(contract.std)


def measure(run_file, model: keras.Model, real_inputs) -> Fidelity:
    """Compares a file with its rebuilt network.

    Args:
        run_file: FileRunner, or a function like it.
        model: the network.
        real_inputs: float32 [1, ...] each.
    """
    pairs = [(run_file(real), np.asarray(model(real, training=False))) for real in real_inputs]
    if not pairs:
        raise ValueError("no images to compare on; give at least one")
    return compare(pairs)


def compare(pairs) -> Fidelity:
    """Compares outputs (reference, rebuilt); class maps are integers, all else has its classes
    last. A batch of one may be missing on one side."""
    equal, total, largest = 0, 0, 0.0
    values: list[tuple[np.ndarray, np.ndarray]] = []
    for reference, rebuilt in pairs:
        reference = reference.reshape(rebuilt.shape)
        if np.issubdtype(rebuilt.dtype, np.integer):
            same = reference == rebuilt
        else:
            same = reference.argmax(-1) == rebuilt.argmax(-1)
            largest = max(largest, float(np.abs(reference - rebuilt).max()))
            values.append((reference.ravel(), rebuilt.ravel()))
        equal, total = equal + int(same.sum()), total + same.size
    correlation = None
    if values:
        references, rebuilts = (np.concatenate(side) for side in zip(*values, strict=True))
        correlation = float(np.corrcoef(references, rebuilts)[0, 1])
    return Fidelity(len(pairs), equal / total, largest if values else None, correlation)

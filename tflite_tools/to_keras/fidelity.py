"""Measures the agreement of an imported network with its file on the same images."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import tf_keras as keras

from tflite_tools.runtime.file_interpreter import FileRunner
from tflite_tools.runtime.interpreter import Kernels


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Agreement of two networks over some images.

    Attributes:
        images: number of images.
        equal_classes: share of pixels (of images, for a classifier) with the same class.
        largest_difference: largest difference of an output value, dequantized; None for class
            maps.
        correlation: Pearson correlation of all output values; None for class maps.
        kernels: kernels that ran the file.
    """

    images: int
    equal_classes: float
    largest_difference: float | None
    correlation: float | None
    kernels: Kernels = Kernels.XNNPACK


def measure(
    run_file: Callable[[np.ndarray], np.ndarray],
    model: keras.Model,
    *,
    real_inputs: Iterable[np.ndarray],
) -> Fidelity:
    """Compares a file with its imported network.

    Args:
        run_file: `tflite_tools.runtime.pool.FileRunner`, or a function like it.
        model: the network.
        real_inputs: float32 [1, ...] each.

    Raises:
        ValueError: there are no inputs.
    """
    pairs = [(run_file(real), np.asarray(model(real, training=False))) for real in real_inputs]
    if not pairs:
        raise ValueError("no images to compare on; give at least one")
    kernels = getattr(run_file, "kernels", Kernels.XNNPACK)
    return dataclasses.replace(compare(pairs), kernels=kernels)


def measure_all(
    runner: FileRunner,
    model: keras.Model,
    *,
    real_inputs: Iterable[np.ndarray],
    places: Sequence[int],
) -> tuple[Fidelity, ...]:
    """Compares all outputs of a file with those of its imported network.

    Args:
        runner: of the file.
        model: the network.
        real_inputs: float32 [1, ...] each.
        places: in the file, of each of the model's outputs.

    Returns:
        One per output of the model.

    Raises:
        ValueError: there are no inputs.
    """
    pairs: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in places]
    for real in real_inputs:
        references, values = runner.outputs(real), model(real, training=False)
        rebuilt = values if isinstance(values, list) else [values]
        for number, place in enumerate(places):
            pairs[number].append((references[place], np.asarray(rebuilt[number])))
    if not pairs[0]:
        raise ValueError("no images to compare on; give at least one")
    return tuple(dataclasses.replace(compare(one), kernels=runner.kernels) for one in pairs)


def compare(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> Fidelity:
    """Compares outputs of a file with those of its imported network.

    Args:
        pairs: (reference, rebuilt) per image. Integers are class maps; any other output has its
            classes on the last axis. A batch dimension of 1 may be missing on one side.
    """
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
    return Fidelity(
        len(pairs),
        equal / total,
        largest_difference=largest if values else None,
        correlation=correlation,
    )

"""How closely a rebuilt network follows its file: both run on the same pixels."""

import dataclasses

import numpy as np
import tf_keras as keras

from tflite_tools.runtime.interpreter import Kernels


@dataclasses.dataclass(frozen=True)
class Fidelity:
    """Agreement of two networks over some images.

    Attributes:
        images: how many were run.
        equal_classes: share of pixels (of images, for a classifier) with the same class.
        largest_difference: of any output value, dequantized; None for class maps.
        correlation: Pearson's, of all output values; None for class maps.
        kernels: that ran the file.
    """

    images: int
    equal_classes: float
    largest_difference: float | None
    correlation: float | None
    kernels: Kernels = Kernels.XNNPACK


def measure(run_file, model: keras.Model, *, real_inputs) -> Fidelity:
    """Compares a file with its rebuilt network.

    Args:
        run_file: `tflite_tools.runtime.pool.FileRunner`, or a function like it.
        model: the network.
        real_inputs: float32 [1, ...] each.
    """
    pairs = [(run_file(real), np.asarray(model(real, training=False))) for real in real_inputs]
    if not pairs:
        raise ValueError("no images to compare on; give at least one")
    kernels = getattr(run_file, "kernels", Kernels.XNNPACK)
    return dataclasses.replace(compare(pairs), kernels=kernels)


def compare(pairs) -> Fidelity:
    """Compares outputs (reference, rebuilt); class maps are integers, all else has its classes
    last. A batch of one may be missing on one side.
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

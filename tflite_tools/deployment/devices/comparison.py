"""Compares the outputs of a device with those of the runtime here, output by output."""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np

from tflite_tools.contract import ModelContract
from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.input_contract import per_tensor


class Meaning(enum.Enum):
    """What the values of an output are."""

    SCORES = "scores"
    """One per class; the class is the arg max."""
    SCORE = "score"
    """One per pixel; the class is whether it exceeds a threshold."""
    CLASSES = "classes"
    """Class numbers; a difference of two has no size."""
    VALUES = "values"
    """Anything else."""


@dataclasses.dataclass(frozen=True)
class ComparedOutput:
    """One output of a file.

    Attributes:
        name: of the tensor.
        meaning: of its values.
        scale: of one step of an integer output, or None.
        axis: of the classes, for SCORES.
        shape: to read it in, or None for its own.
        threshold: for SCORE.
    """

    name: str
    meaning: Meaning
    scale: float | None = None
    axis: int = -1
    shape: tuple[int, ...] | None = None
    threshold: float = 0.0

    def classes(self, values: np.ndarray) -> np.ndarray | None:
        """Returns the classes that an output means, or None if it means none.

        Args:
            values: raw output.
        """
        if self.meaning is Meaning.VALUES:
            return None
        if self.meaning is Meaning.CLASSES:
            return values
        if self.meaning is Meaning.SCORE:
            return values > self.threshold
        return self._shaped(values).argmax(self.axis)

    def is_class(self, values: np.ndarray) -> np.ndarray:
        """Returns where an output that means classes means one: not where a score is no number.

        Args:
            values: raw output.
        """
        finite = np.isfinite(values)
        return np.all(self._shaped(finite), self.axis) if self.meaning is Meaning.SCORES else finite

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values if self.shape is None else values.reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class OutputDifference:
    """How far an output of a device is from ours, over all pictures.

    Attributes:
        output: which.
        equal: fraction of values that are equal, bit by bit.
        same_class: fraction with the same class (of pixels, where the output is a mask), or None.
        steps: largest difference in steps of the output's scale, or None for other outputs.
        relative: largest difference as a fraction of the range of our values, or None.
        finite: whether the device gave numbers everywhere.
    """

    output: ComparedOutput
    equal: float
    same_class: float | None
    steps: float | None
    relative: float | None
    finite: bool

    @property
    def identical(self) -> bool:
        """Whether every value is equal."""
        return self.equal == 1.0


def compared_outputs(graph: Graph, contract: ModelContract | None) -> tuple[ComparedOutput, ...]:
    """Returns what each output of a file is.

    Args:
        graph: of the file.
        contract: of a segmentation file, which tells which output is the mask; else None.
    """
    tensors = [graph.tensors[index] for index in graph.outputs]
    return tuple(
        _mask_output(tensor, contract)
        if contract is not None and position == contract.output_position
        else _any_output(tensor)
        for position, tensor in enumerate(tensors)
    )


def _mask_output(tensor: Tensor, contract: ModelContract) -> ComparedOutput:
    scale = _scale(tensor)
    if contract.classes_output:
        return ComparedOutput(tensor.name, Meaning.CLASSES)
    if contract.threshold is not None:
        return ComparedOutput(tensor.name, Meaning.SCORE, scale, threshold=contract.threshold)
    if contract.output_channels_first:
        return ComparedOutput(tensor.name, Meaning.SCORES, scale, axis=1)
    return ComparedOutput(tensor.name, Meaning.SCORES, scale, shape=contract.output_shape)


def _any_output(tensor: Tensor) -> ComparedOutput:
    scale = _scale(tensor)
    if not tensor.is_float and scale is None:
        return ComparedOutput(tensor.name, Meaning.CLASSES)
    scores = len(tensor.shape) in (2, 4) and tensor.shape[-1] > 1
    return ComparedOutput(tensor.name, Meaning.SCORES if scores else Meaning.VALUES, scale)


def _scale(tensor: Tensor) -> float | None:
    quantization = per_tensor(tensor)
    return None if quantization is None else quantization[0]


def compare_output(
    output: ComparedOutput, ours: Sequence[np.ndarray], *, theirs: Sequence[np.ndarray]
) -> OutputDifference:
    """Compares one output over all pictures.

    Args:
        output: which.
        ours: its values here, one array per picture.
        theirs: its values on the device.

    Raises:
        ValueError: the device gave another shape or type.
    """
    for one, other in zip(ours, theirs, strict=True):
        if one.shape != other.shape or one.dtype != other.dtype:
            raise ValueError(
                f"output {output.name!r}: expected {one.dtype} {list(one.shape)}, got "
                f"{other.dtype} {list(other.shape)}"
            )
    expected, given = (np.stack(values) for values in (ours, theirs))
    finite = bool(np.isfinite(given).all())
    return OutputDifference(
        output,
        equal=float(np.mean(expected == given)),
        same_class=_same_class(output, ours, theirs=theirs),
        steps=_largest(expected, given) if output.scale is not None else None,
        relative=_relative(expected, given) if output.meaning is not Meaning.CLASSES else None,
        finite=finite,
    )


def _same_class(
    output: ComparedOutput, ours: Sequence[np.ndarray], *, theirs: Sequence[np.ndarray]
) -> float | None:
    shares = []
    for one, other in zip(ours, theirs, strict=True):
        expected, given = output.classes(one), output.classes(other)
        if expected is None or given is None:
            return None
        shares.append(np.mean((expected == given) & output.is_class(other)))
    return float(np.mean(shares))


def _largest(expected: np.ndarray, given: np.ndarray) -> float:
    difference = float(np.abs(expected.astype(np.float64) - given.astype(np.float64)).max())
    return difference if np.isfinite(difference) else float("inf")


def _relative(expected: np.ndarray, given: np.ndarray) -> float:
    extent = float(expected.max()) - float(expected.min())
    largest = _largest(expected, given)
    return largest / extent if extent > 0 else (0.0 if largest == 0 else float("inf"))

"""Converts a file's raw output to a class map of the input's size."""

import numpy as np

from deeplab_tf.data.alignment import Alignment, nearest_indices
from tflite_tools.contract import ModelContract


def argmax_channels(logits: np.ndarray) -> np.ndarray:
    """Returns the argmax over the last axis; of equal values the first, as np.argmax does.

    Planes are compared one after the other: np.argmax over a short last axis is six times
    slower, which costs a sixth of an integer network's own time.

    Args:
        logits: any dtype [height, width, classes].

    Returns:
        [height, width], the smallest unsigned dtype that holds every class: uint8 up to 256.
    """
    height, width, classes = logits.shape
    planes = np.ascontiguousarray(logits.reshape(-1, classes).T)
    best = planes[0].copy()
    dtype = np.min_scalar_type(classes - 1)
    index = np.zeros(best.shape, dtype)
    for channel in range(1, classes):
        higher = planes[channel] > best
        np.maximum(best, planes[channel], out=best)
        np.maximum(index, higher.view(np.uint8) * dtype.type(channel), out=index)
    return index.reshape(height, width)


def _interpolation(source: int, target: int, *, alignment: Alignment) -> np.ndarray:
    """Returns the matrix of bilinear interpolation, float32 [target, source]."""
    position = alignment.positions(source, target)
    low = np.floor(position).astype(np.int64)
    weight = (position - low).astype(np.float32)
    matrix = np.zeros((target, source), np.float32)
    rows = np.arange(target)
    np.add.at(matrix, (rows, low.clip(0, source - 1)), 1 - weight)
    np.add.at(matrix, (rows, (low + 1).clip(0, source - 1)), weight)
    return matrix


class OutputReader:
    """Converts raw outputs of one file to class maps of the size of its input, the canvas."""

    def __init__(
        self,
        height: int,
        width: int,
        *,
        output_shape: tuple[int, ...],
        classes: bool,
        alignment: Alignment = Alignment.HALF_PIXEL,
        threshold: float | None = None,
    ) -> None:
        """Prepares the resize to the canvas.

        Args:
            height: of the network's input.
            width: of the network's input.
            output_shape: of the output, [1, h, w, channels] of scores also where they are flat.
            classes: whether the output is a class map.
            alignment: convention of the training, for outputs of another size than the input.
            threshold: of one score, see `ModelContract`; None where every class has a score.
        """
        self._classes, self._threshold = classes, threshold
        self._shape = output_shape
        self._alignment = alignment
        self._canvas = (height, width)
        spatial = [size for size in output_shape if size != 1] if classes else output_shape[1:3]
        self._spatial = (spatial[0], spatial[1])
        self._matrices = None
        if not classes and self._spatial != self._canvas:
            self._matrices = (
                _interpolation(spatial[0], height, alignment=alignment),
                _interpolation(spatial[1], width, alignment=alignment),
            )

    @classmethod
    def of(cls, contract: ModelContract) -> "OutputReader":
        """Builds the reader of a file, with the resize of its contract.

        Args:
            contract: of the file.
        """
        return cls(
            contract.height,
            contract.width,
            output_shape=contract.output_shape,
            classes=contract.classes_output,
            alignment=contract.alignment or Alignment.HALF_PIXEL,
            threshold=contract.threshold,
        )

    def on_canvas(self, output: np.ndarray) -> np.ndarray:
        """Returns the class map on the canvas.

        Logits of another size are resized bilinearly before the argmax, class maps by nearest
        neighbour.

        Args:
            output: raw output of the file.

        Returns:
            [height, width], uint8, or a wider type for more than 256 classes.
        """
        if self._classes:
            return self._class_map(output.reshape(self._spatial))
        if self._threshold is not None:
            score = self.logits_on_canvas(output)[..., 0]
            return (score > self._threshold).astype(np.uint8)
        return argmax_channels(self.logits_on_canvas(output))

    def logits_on_canvas(self, output: np.ndarray) -> np.ndarray:
        """Returns the logits on the canvas, in units of the file's own integers.

        Args:
            output: raw output of the file.

        Returns:
            [height, width, classes], in the output's dtype, or float32 if resized bilinearly.
        """
        logits = output.reshape(self._shape)[0]
        if self._matrices is None:
            return logits
        rows, columns = self._matrices
        resized = np.tensordot(rows, logits.astype(np.float32), axes=1)
        return np.einsum("xw,hwc->hxc", columns, resized, optimize=True)

    def _class_map(self, classes: np.ndarray) -> np.ndarray:
        classes = np.where((classes < 0) | (classes > 255), 255, classes).astype(np.uint8)
        if self._spatial == self._canvas:
            return classes
        rows, columns = (
            nearest_indices(source, target, alignment=self._alignment)
            for source, target in zip(self._spatial, self._canvas, strict=True)
        )
        return classes[rows[:, None], columns]

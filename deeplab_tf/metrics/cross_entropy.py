"""Cross-entropy of a file's own logits, so that integers and floats compare beyond the argmax."""

import numpy as np


def dequantize(logits: np.ndarray, quantization: tuple[float, int] | None) -> np.ndarray:
    """float32 of the same shape: scale * (value - zero point), or the values as they are."""
    values = logits.astype(np.float32)
    if quantization is None:
        return values
    scale, zero_point = quantization
    return np.float32(scale) * (values - np.float32(zero_point))


def cross_entropy_sum(logits: np.ndarray, label: np.ndarray) -> tuple[float, int]:
    """Sum over labelled pixels of -log softmax(logits)[label], in nats.

    Args:
        logits: float32 [height, width, classes].
        label: uint8 [height, width]; values from `classes` up (255) are not counted.

    Returns:
        the sum and how many pixels it is of.

    Raises:
        ValueError: the sizes differ.
    """
    if logits.shape[:2] != label.shape:
        raise ValueError(f"logits {logits.shape} and label {label.shape} differ in size")
    labelled = label < logits.shape[2]
    chosen, truth = logits[labelled].astype(np.float64), label[labelled]
    highest = chosen.max(1, initial=-np.inf, keepdims=True)
    of_truth = np.take_along_axis(chosen, truth[:, None].astype(np.intp), axis=1) - highest
    losses = np.log(np.exp(chosen - highest).sum(1)) - of_truth[:, 0]
    return float(losses.sum()), int(labelled.sum())

"""Cross-entropy of a file's logits, to compare integer and float files beyond the arg max."""

import numpy as np


def dequantize(logits: np.ndarray, quantization: tuple[float, int] | None) -> np.ndarray:
    """Converts logits to real values, scale * (value - zero_point).

    Args:
        logits: values of any dtype.
        quantization: (scale, zero point), or None for logits that are not quantized.

    Returns:
        float32 of the same shape.
    """
    values = logits.astype(np.float32)
    if quantization is None:
        return values
    scale, zero_point = quantization
    return np.float32(scale) * (values - np.float32(zero_point))


def cross_entropy_sum(logits: np.ndarray, label: np.ndarray) -> tuple[float, int]:
    """Sums -log softmax(logits)[label] over labelled pixels, in nats.

    Args:
        logits: float32 [height, width, classes].
        label: uint8 [height, width]; values from `classes` up (255) are not counted.

    Returns:
        The sum and the number of labelled pixels.

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

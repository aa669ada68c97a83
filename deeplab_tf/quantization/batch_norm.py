"""Putting observed statistics into batch norms, without changing what the network computes.

Networks out of a `.tflite` have their batch norms folded, which trains badly. A batch norm
behind a convolution z, with any mean and variance, computes the same as before if

    gamma' = gamma * sqrt(var' + eps) / sqrt(var + eps)
    beta'  = beta + gamma * (mean' - mean) / sqrt(var + eps)
"""

import numpy as np
import tf_keras as keras


def observe_inputs(model: keras.Model, batch_norms, batches):
    """Mean and variance of what flows into each batch norm, over all pixels of all batches.

    Args:
        model: flat Functional graph.
        batch_norms: its BatchNormalization layers to watch.
        batches: iterable of float32 [batch, height, width, channels], normalized.

    Returns:
        a list of (mean, variance), float64 [channels] each.
    """
    taps = keras.Model(model.inputs, [layer.input for layer in batch_norms])
    sums = squares = None
    count = [0] * len(batch_norms)
    for batch in batches:
        values = [np.asarray(value, np.float64) for value in taps(batch, training=False)]
        if sums is None:
            sums = [np.zeros(value.shape[-1]) for value in values]
            squares = [np.zeros(value.shape[-1]) for value in values]
        for index, value in enumerate(values):
            flat = value.reshape(-1, value.shape[-1])
            sums[index] += flat.sum(0)
            squares[index] += (flat**2).sum(0)
            count[index] += len(flat)
    if sums is None:
        raise ValueError("no images to observe batch-norm statistics on; give at least one batch")
    result = []
    for total, square, number in zip(sums, squares, count, strict=True):
        mean = total / number
        result.append((mean, np.maximum(square / number - mean**2, 0)))
    return result


def adopt_statistics(model: keras.Model, batches) -> None:
    """Sets every batch norm's moving statistics to what is observed, the function unchanged.

    Args:
        model: flat Functional graph with BatchNormalization layers; changed in place.
        batches: iterable of float32 [batch, height, width, channels], normalized.
    """
    batch_norms = [
        layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)
    ]
    observed = observe_inputs(model, batch_norms, batches)
    for layer, (mean, variance) in zip(batch_norms, observed, strict=True):
        gamma, beta, old_mean, old_variance = (
            np.asarray(value, np.float64) for value in layer.get_weights()
        )
        old_std = np.sqrt(old_variance + layer.epsilon)
        layer.set_weights(
            [
                gamma * np.sqrt(variance + layer.epsilon) / old_std,
                beta + gamma * (mean - old_mean) / old_std,
                mean,
                variance,
            ]
        )

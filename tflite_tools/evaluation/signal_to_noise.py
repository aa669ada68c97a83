"""Signal-to-noise ratio of files' logits relative to a float file's, in decibels.

10 log10(sum of reference^2 / sum of (file - reference)^2)
"""

import math

import numpy as np

from deeplab_tf.data.dataset import SegmentationDataset
from deeplab_tf.data.preprocessing import place
from deeplab_tf.metrics.cross_entropy import dequantize
from deeplab_tf.metrics.signal_to_noise import snr_db
from tflite_tools.contract import ModelContract
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner


def real_output(runner: ModelRunner, image: np.ndarray) -> np.ndarray:
    """Runs a file and dequantizes its output; runs in a child process.

    Args:
        runner: of the file.
        image: uint8 [height, width, channels], of the input's size.

    Returns:
        float32 real values, of the output's shape.
    """
    runner.set_image(image)
    runner.invoke()
    return dequantize(runner.output(), runner.contract.output_quantization)


def signal_to_noise_db(
    contracts: list[ModelContract], dataset: SegmentationDataset, *, indices: list[int]
) -> list[float]:
    """Computes the ratio of each file but the first, relative to the first.

    Args:
        contracts: files with logits of one size, the reference first.
        dataset: the list.
        indices: samples that are run.

    Returns:
        One value in dB per file except the first; infinite for equal values, NaN for a file that
        failed.

    Raises:
        ValueError: class maps, or outputs of different sizes.
    """
    wrong = [
        c.name for c in contracts if c.classes_output or c.output_shape != contracts[0].output_shape
    ]
    if wrong:
        raise ValueError(
            f"{', '.join(wrong)}: expected logits of the reference's shape "
            f"{list(contracts[0].output_shape)}, got class maps or other shapes"
        )
    signal, noise = 0.0, np.zeros(len(contracts) - 1)
    with InterpreterPool(contracts, 1) as pool:
        for index in indices:
            photo = dataset.image(index)
            outputs: dict[int, np.ndarray] = {}
            tasks = [
                Task(
                    number,
                    real_output,
                    arguments=(place(photo, (contract.height, contract.width))[0],),
                )
                for number, contract in enumerate(contracts)
            ]
            for outcome in pool.run(tasks):
                if not outcome.failure:
                    outputs[outcome.task.model] = np.asarray(outcome.value)
            signal += float(np.square(outputs[0], dtype=np.float64).sum())
            for number in range(1, len(contracts)):
                found = outputs.get(number)
                noise[number - 1] += (
                    math.nan
                    if found is None
                    else float(np.square(found - outputs[0], dtype=np.float64).sum())
                )
    return [snr_db(signal, value) for value in noise]

"""Compares a quantization-aware network with the `.tflite` file that is converted from it."""

import dataclasses

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import main_output
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics.signal_to_noise import snr_db
from deeplab_tf.scratch import scratch_folder
from export.conversion.convert import Conversion, ConverterProcess
from export.conversion.freeze import freeze_model, write_saved_model
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.signal_to_noise import real_output
from tflite_tools.runtime.child_pool import Task
from tflite_tools.runtime.pool import InterpreterPool
from tflite_tools.runtime.runner import ModelRunner


@dataclasses.dataclass(frozen=True)
class Parity:
    """How closely a file follows its network.

    Attributes:
        agreement: share of pixels with the same class, 0 to 1, logits resized to the input size.
        worst: the same for the worst image.
        snr_db: signal-to-noise ratio of the file's logits, the network's as signal.
        images: how many images were compared.
    """

    agreement: float
    worst: float
    snr_db: float
    images: int


def measure_parity(
    model: keras.Model,
    images: np.ndarray,
    *,
    preprocessing: Preprocessing,
    alignment: Alignment = Alignment.HALF_PIXEL,
) -> Parity:
    """Converts a quantization-aware network and runs both on the same images.

    Args:
        model: float32 [batch, height, width, channels] -> logits [batch, h, w, classes]; further
            outputs are left out.
        images: uint8 [count, height, width, channels].
        preprocessing: normalization of the network's input.
        alignment: convention by which logits are resized.

    Returns:
        how closely the file follows the network.

    Raises:
        RuntimeError: the converter refuses, or the file does not run.
    """
    model = main_output(model)
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.FLOAT32
    )
    with scratch_folder("parity") as scratch, ConverterProcess() as converter:
        saved_model = scratch / "saved_model"
        file = scratch / "a.tflite"
        write_saved_model(freeze_model(model, spec.head, alignment=alignment), saved_model)
        file.write_bytes(
            converter.convert(
                Conversion(saved_model, spec, calibration_file=None, preprocessing=preprocessing)
            )
        )
        contract = read_contract(file, preprocessing)
        outputs: dict[int, np.ndarray] = {}
        with InterpreterPool([contract], 1) as pool:
            tasks = [
                Task(0, _numbered_output, arguments=(n, image)) for n, image in enumerate(images)
            ]
            for outcome in pool.run(tasks):
                if outcome.failure:
                    raise RuntimeError(outcome.failure)
                number, output = outcome.value  # type: ignore[misc]
                outputs[number] = output
    return _compare(
        model, images, preprocessing=preprocessing, alignment=alignment, outputs=outputs
    )


def _numbered_output(runner: ModelRunner, number: int, image: np.ndarray) -> tuple[int, np.ndarray]:
    return number, real_output(runner, image)


def _compare(
    model: keras.Model,
    images: np.ndarray,
    *,
    preprocessing: Preprocessing,
    alignment: Alignment,
    outputs: dict[int, np.ndarray],
) -> Parity:
    _, height, width, _ = model.input_shape
    shares, signal, noise = [], 0.0, 0.0
    for number, image in enumerate(images):
        expected = model(preprocessing.normalize(image[None]), training=False).numpy()
        classes = [
            resize_bilinear(tf.constant(logits), (height, width), alignment=alignment)
            .numpy()
            .argmax(-1)
            for logits in (expected, outputs[number])
        ]
        shares.append(float(np.mean(classes[0] == classes[1])))
        signal += float(np.square(expected, dtype=np.float64).sum())
        noise += float(np.square(expected - outputs[number], dtype=np.float64).sum())
    decibels = snr_db(signal, noise)
    return Parity(float(np.mean(shares)), min(shares), snr_db=decibels, images=len(images))

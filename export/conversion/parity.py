"""Whether the file computes what the quantization-aware network computed in training."""

import dataclasses
import pathlib
import tempfile

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.alignment import Alignment
from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.resize import resize_bilinear
from deeplab_tf.metrics.signal_to_noise import snr_db
from export.conversion.convert import Conversion, ConverterProcess
from export.conversion.freeze import freeze_model, write_saved_model
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from tflite_tools.contract import read_contract
from tflite_tools.evaluation.signal_to_noise import real_output
from tflite_tools.runtime.pool import InterpreterPool, Task


@dataclasses.dataclass(frozen=True)
class Parity:
    """How close two computations are.

    Attributes:
        agreement: share of pixels with the same class, 0 to 1, logits resized to the photo.
        worst: the same on the worst photo.
        snr_db: of the file's logits against the network's.
        images: photos compared.
    """

    agreement: float
    worst: float
    snr_db: float
    images: int


def measure_parity(
    model: keras.Model,
    photos: np.ndarray,
    *,
    preprocessing: Preprocessing,
    alignment: Alignment = Alignment.HALF_PIXEL,
) -> Parity:
    """Converts a quantization-aware network and runs both on the same photos.

    Args:
        model: float32 [batch, height, width, channels] -> logits [batch, h, w, classes].
        photos: uint8 [count, height, width, channels].
        preprocessing: normalization of the network's input.
        alignment: convention by which logits are resized.

    Raises:
        RuntimeError: the converter refuses, or the file does not run.
    """
    spec = FileSpec(
        Variant.QAT_INT8, Head.LOGITS_LOW, input_dtype=IoDtype.UINT8, output_dtype=IoDtype.FLOAT32
    )
    with tempfile.TemporaryDirectory(prefix="parity-") as scratch, ConverterProcess() as converter:
        saved_model, file = (
            pathlib.Path(scratch) / "saved_model",
            pathlib.Path(scratch) / "a.tflite",
        )
        write_saved_model(freeze_model(model, spec.head, alignment=alignment), saved_model)
        file.write_bytes(
            converter.convert(
                Conversion(saved_model, spec, calibration_file=None, preprocessing=preprocessing)
            )
        )
        contract = read_contract(file, preprocessing)
        outputs = {}
        with InterpreterPool([contract], 1) as pool:
            tasks = [
                Task(0, _numbered_output, arguments=(n, photo)) for n, photo in enumerate(photos)
            ]
            for outcome in pool.run(tasks):
                if outcome.failure:
                    raise RuntimeError(outcome.failure)
                number, output = outcome.value  # type: ignore[misc]
                outputs[number] = output
    return _compare(
        model, photos, preprocessing=preprocessing, alignment=alignment, outputs=outputs
    )


def _numbered_output(runner, number: int, photo: np.ndarray):
    return number, real_output(runner, photo)


def _compare(model, photos, *, preprocessing, alignment, outputs) -> Parity:
    _, height, width, _ = model.input_shape
    shares, signal, noise = [], 0.0, 0.0
    for number, photo in enumerate(photos):
        wanted = model(preprocessing.normalize(photo[None]), training=False).numpy()
        classes = [
            resize_bilinear(tf.constant(logits), (height, width), alignment=alignment)
            .numpy()
            .argmax(-1)
            for logits in (wanted, outputs[number])
        ]
        shares.append(float(np.mean(classes[0] == classes[1])))
        signal += float(np.square(wanted, dtype=np.float64).sum())
        noise += float(np.square(wanted - outputs[number], dtype=np.float64).sum())
    decibels = snr_db(signal, noise)
    return Parity(float(np.mean(shares)), min(shares), snr_db=decibels, images=len(photos))

"""One frozen function in one number format: TensorFlow's converter, in a child process.

`convert()` leaks with every call and can abort the process, so a child does the work: what
goes wrong there costs one variant and a message.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import signal

import numpy as np

from deeplab_tf.data.preprocessing import Preprocessing
from export.conversion.variants import RULES, FileSpec, IoDtype, Variant
from tflite_tools.flatbuffer.pack import share_equal_vectors


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion, as data that a child process can be handed.

    Attributes:
        saved_model: folder with the frozen SavedModel.
        spec: what to make of it.
        calibration_file: `.npy` of uint8 [count, height, width, channels], or None.
        preprocessing: normalization of calibration images.
        planned: the graph carries its own ranges though the variant is a calibrated one.
    """

    saved_model: pathlib.Path
    spec: FileSpec
    calibration_file: pathlib.Path | None
    preprocessing: Preprocessing
    planned: bool = False


def convert(conversion: Conversion) -> bytes:
    """Converts in this process.

    Returns:
        the flatbuffer, equal vectors stored once.

    Raises:
        RuntimeError: the converter refuses, with its first reason.
    """
    import tensorflow as tf  # noqa: PLC0415 - only children that convert load it

    spec = conversion.spec
    calibrated = RULES[spec.variant].calibrated and not conversion.planned
    converter = tf.lite.TFLiteConverter.from_saved_model(str(conversion.saved_model))
    if spec.variant is not Variant.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if spec.variant is Variant.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if calibrated:
        if conversion.calibration_file is None:
            raise ValueError(f"{spec.variant.value} needs calibration images; none were given")
        images = np.load(conversion.calibration_file, mmap_mode="r")
        converter.representative_dataset = lambda: (
            [conversion.preprocessing.normalize(np.asarray(image[None]))] for image in images
        )
    if spec.variant in (Variant.INT8, Variant.QAT_INT8):
        # Restricting the operators would demand a representative set, which a quantization-aware
        # graph does not need; the gate looks for floats in both.
        if calibrated:
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = _tensorflow_type(spec.input_dtype)
        converter.inference_output_type = (
            tf.uint8 if spec.head.gives_classes else _tensorflow_type(spec.output_dtype)
        )
    elif spec.variant is Variant.INT16X8:
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    try:
        content = converter.convert()
    except Exception as error:
        raise RuntimeError(f"the converter refused: {_first_reason(str(error))}") from error
    return share_equal_vectors(content)


def _tensorflow_type(dtype: IoDtype):
    import tensorflow as tf  # noqa: PLC0415

    return {IoDtype.FLOAT32: tf.float32, IoDtype.UINT8: tf.uint8, IoDtype.INT8: tf.int8}[dtype]


def _first_reason(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return (errors or lines or ["no reason given"])[0][:400]


class ConverterProcess:
    """Runs conversions one after the other in a child; a child that dies is replaced."""

    def __init__(self):
        self._pool = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if self._pool is None:
            return
        if kind is not None:  # do not wait for a conversion that nobody wants
            for process in list(self._pool._processes.values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def convert(self, conversion: Conversion) -> bytes:
        """Raises RuntimeError with the cause, also when the child died."""
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=signal.signal,
                initargs=(signal.SIGINT, signal.SIG_IGN),  # the parent decides
            )
        try:
            return self._pool.submit(convert, conversion).result()
        except concurrent.futures.process.BrokenProcessPool as error:
            self._pool = None
            raise RuntimeError(
                f"the converter's process died on {conversion.spec.file_name} "
                "(out of memory, or a fault in the converter)"
            ) from error

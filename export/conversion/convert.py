"""Converts a frozen function to one number format, in a child process with TensorFlow's converter.

The converter leaks memory with every call and can abort the process. In a child process, a crash
costs one file and a message.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import pathlib
import signal
import types
from typing import Any

import numpy as np

from deeplab_tf import child_process
from deeplab_tf.data.preprocessing import Preprocessing
from export.conversion.variants import RULES, FileSpec, IoDtype, Variant
from tflite_tools.flatbuffer.pack import share_equal_vectors


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A conversion as data that can be sent to a child process.

    Attributes:
        saved_model: folder with the frozen SavedModel.
        spec: the file to make.
        calibration_file: `.npy` of uint8 [count, height, width, channels], or None.
        preprocessing: normalization of the calibration images.
        planned: whether the graph holds its own ranges although the variant is a calibrated one.
    """

    saved_model: pathlib.Path
    spec: FileSpec
    calibration_file: pathlib.Path | None
    preprocessing: Preprocessing
    planned: bool = False


def convert(conversion: Conversion) -> bytes:
    """Converts in this process.

    Args:
        conversion: what to convert.

    Returns:
        the flatbuffer, with equal vectors stored once.

    Raises:
        RuntimeError: the converter refuses; the message holds its first error.
        ValueError: calibration images are missing.
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
            raise ValueError(
                f"{spec.variant.value} expected calibration images, got none; give a "
                "calibration_file"
            )
        images = np.load(conversion.calibration_file, mmap_mode="r")
        converter.representative_dataset = lambda: (
            [conversion.preprocessing.normalize(np.asarray(image[None]))] for image in images
        )
    if spec.variant in (Variant.INT8, Variant.QAT_INT8):
        # With restricted operators the converter demands a representative data set, which a
        # quantization-aware graph does not need; the gate checks both for float tensors.
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


def _tensorflow_type(dtype: IoDtype) -> Any:  # tf.DType; TensorFlow is loaded in children only
    import tensorflow as tf  # noqa: PLC0415

    return {IoDtype.FLOAT32: tf.float32, IoDtype.UINT8: tf.uint8, IoDtype.INT8: tf.int8}[dtype]


def _first_reason(message: str) -> str:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    return (errors or lines or ["no reason given"])[0][:400]


_ALL_OF_THE_MACHINE = 1 << 50
"""What the converter needs is not known before; it must not take more than there is."""


def _start_child(by_main_thread: bool, allowance_bytes: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    child_process.end_with_parent(by_main_thread)
    child_process.limit_memory(allowance_bytes)


class ConverterProcess:
    """Runs conversions one after the other in a child process; one that dies is replaced."""

    def __init__(self) -> None:
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None

    def __enter__(self) -> "ConverterProcess":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        if self._pool is None:
            return
        if kind is not None:  # the result of a running conversion is not needed any more
            for process in list(self._pool._processes.values()):
                process.terminate()
        self._pool.shutdown(cancel_futures=True)

    def convert(self, conversion: Conversion) -> bytes:
        """Converts in the child process.

        Args:
            conversion: what to convert.

        Returns:
            the flatbuffer.

        Raises:
            RuntimeError: the converter refuses, or its process died.
            ValueError: calibration images are missing.
        """
        if self._pool is None:
            self._pool = concurrent.futures.ProcessPoolExecutor(
                1,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_start_child,
                initargs=(
                    child_process.started_by_main_thread(),
                    child_process.memory_allowance(_ALL_OF_THE_MACHINE),
                ),
            )
        try:
            with child_process.without_script():  # the first task starts the process
                future = self._pool.submit(convert, conversion)
            return future.result()
        except concurrent.futures.process.BrokenProcessPool as error:
            self._pool = None
            raise RuntimeError(
                f"the converter's process died on {conversion.spec.file_name} "
                "(out of memory, or a fault in the converter); free memory or give a smaller --size"
            ) from error

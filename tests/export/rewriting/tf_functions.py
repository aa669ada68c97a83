"""Small float files from TensorFlow functions, and what they compute."""

import pathlib
import warnings

import numpy as np
import tensorflow as tf

from tflite_tools.flatbuffer.editor import Editor
from tflite_tools.runtime.file_interpreter import FileInterpreter


def converted(function, shape) -> bytes:
    """A `.tflite` of a function of one image."""
    traced = tf.function(function, input_signature=[tf.TensorSpec(shape, tf.float32)])
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [traced.get_concrete_function()], None
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter's own
        return converter.convert()


def outputs(content: bytes, value: np.ndarray, folder: pathlib.Path) -> list[np.ndarray]:
    """All outputs of a file."""
    path = folder / "run.tflite"
    path.write_bytes(content)
    interpreter = FileInterpreter(path)
    interpreter.set_input(value.astype(np.float32))
    interpreter.invoke()
    return interpreter.outputs()


def kinds(content: bytes) -> list[str]:
    """Operators of a file, in the order of execution."""
    editor = Editor(content)
    return [editor.kind(operator) for operator in editor.graph.operators]

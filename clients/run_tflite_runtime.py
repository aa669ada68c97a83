"""Writes the mask of one image by the old tflite-runtime as NPY.

Runs in an environment of its own.
"""

import sys

import numpy as np
from PIL import Image
from tflite_runtime.interpreter import Interpreter


def main(model: str, picture: str, *, output: str) -> None:
    """Predicts the mask of one image.

    Args:
        model: path of the `.tflite`.
        picture: path of the image, of the input's size.
        output: NPY file to write.
    """
    interpreter = Interpreter(model)
    interpreter.allocate_tensors()
    pixels = np.asarray(Image.open(picture).convert("RGB"))[None]
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], pixels)
    interpreter.invoke()
    logits = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.save(output, logits[0].argmax(-1).astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], output=sys.argv[3])

"""Writes the mask of one image by OpenVINO's CPU plugin as NPY.

Runs in an environment of its own.
"""

import sys

import numpy as np
import openvino
from PIL import Image


def main(model: str, picture: str, *, output: str) -> None:
    """Predicts the mask of one image.

    Args:
        model: path of the `.tflite`.
        picture: path of the image, of the input's size.
        output: NPY file to write.
    """
    # Processors with AMX compute float in bfloat16 unless told otherwise.
    compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    pixels = np.asarray(Image.open(picture).convert("RGB"))[None]
    logits = compiled(pixels)[compiled.output(0)]
    np.save(output, logits[0].argmax(-1).astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], output=sys.argv[3])

"""Writes the mask of one image by ONNX Runtime (through tf2onnx) as NPY.

Runs in an environment of its own.
"""

import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import onnxruntime
from PIL import Image

_OPSET = "17"


def main(model: str, picture: str, *, output: str) -> None:
    """Predicts the mask of one image.

    Args:
        model: path of the `.tflite`.
        picture: path of the image, of the input's size.
        output: NPY file to write.
    """
    with tempfile.TemporaryDirectory() as folder:
        converted = pathlib.Path(folder) / "model.onnx"
        command = [sys.executable, "-m", "tf2onnx.convert", "--tflite", model]
        subprocess.run([*command, "--opset", _OPSET, "--output", str(converted)], check=True)
        session = onnxruntime.InferenceSession(converted, providers=["CPUExecutionProvider"])
    pixels = np.asarray(Image.open(picture).convert("RGB"))[None]
    [logits] = session.run(None, {session.get_inputs()[0].name: pixels})
    np.save(output, logits[0].argmax(-1).astype(np.uint8))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], output=sys.argv[3])

"""Writes the mask of one image by MediaPipe's ImageSegmenter as NPY.

Runs in an environment of its own.
"""

import pathlib
import sys

import mediapipe as mp
import numpy as np
from mediapipe.tasks.python import BaseOptions, vision


def main(model: str, picture: str, *, output: str) -> None:
    """Predicts the mask of one image.

    Args:
        model: path of the `.tflite`.
        picture: path of the image, of the input's size.
        output: NPY file to write.
    """
    options = vision.ImageSegmenterOptions(
        base_options=BaseOptions(model_asset_buffer=pathlib.Path(model).read_bytes()),
        output_category_mask=True,
    )
    with vision.ImageSegmenter.create_from_options(options) as segmenter:
        sys.stdout.write("labels: " + ",".join(segmenter.labels) + "\n")
        result = segmenter.segment(mp.Image.create_from_file(picture))
        np.save(output, np.squeeze(result.category_mask.numpy_view()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], output=sys.argv[3])

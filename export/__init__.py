"""From trained weights to `.tflite` files: freeze, calibrate, convert, check."""

import deeplab_tf  # noqa: F401 - sets TensorFlow's environment before it is imported

"""Reads, runs, evaluates and checks `.tflite` files."""

import deeplab_tf  # noqa: F401 - sets TensorFlow's environment before it is imported

"""Studies: a grid of trainings and its report."""

import deeplab_tf  # noqa: F401 - sets TensorFlow's environment before it is imported

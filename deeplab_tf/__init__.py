"""Train semantic-segmentation networks with delayed quantization-aware training.

tfmot 0.8 works with Keras 2 only. The choice is made here, once, because it must
stand in the environment before TensorFlow is first imported.
"""

import os

from deeplab_tf import quiet_start

__version__ = "0.1.0"
"""Of the distribution; pyproject.toml reads it here."""

quiet_start.end_at_interrupt()
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2") == "2":  # else all that it asks for is shown
    quiet_start.import_tensorflow_quietly()

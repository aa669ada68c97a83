"""The versions that each environment of a framework is made of; the only place that states them."""

PINNED: dict[str, tuple[str, ...]] = {
    "pytorch": ("torch==2.13.0", "litert-torch==0.10.0", "safetensors==0.8.0"),
    # It pins all that it needs itself: ONNX, ONNX Runtime, TensorFlow. From 2.0 on it takes Python
    # 3.12 or newer.
    "onnx": ("onnx2tf==1.29.24",),
}
"""Requirements of pip, by the environment's name. Keras and SavedModels run in the Python of this
project: its TensorFlow brings Keras 3."""

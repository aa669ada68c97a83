"""What a `.tflite` says about itself: normalization, labels, output (TFLite metadata, M001)."""

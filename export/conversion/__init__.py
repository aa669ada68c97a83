"""From a float network to checked `.tflite` files."""

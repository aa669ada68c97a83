"""Converts a network to checked `.tflite` files."""

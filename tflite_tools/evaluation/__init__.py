"""Scores `.tflite` files on labelled samples."""

"""Scores of `.tflite` files on labelled samples."""

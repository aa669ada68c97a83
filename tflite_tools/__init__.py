"""Reads, runs, evaluates and checks `.tflite` files."""

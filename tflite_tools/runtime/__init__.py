"""Runs `.tflite` files: interpreters, child processes, outputs."""

"""Bias correction of a finished integer `.tflite`."""

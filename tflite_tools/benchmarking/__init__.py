"""Measures the time of a `.tflite`, in total and per operator."""

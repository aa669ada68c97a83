"""Reads, checks, edits and packs the bytes of `.tflite` files."""

"""Reads and writes TFLite metadata (M001): normalization, labels, output."""

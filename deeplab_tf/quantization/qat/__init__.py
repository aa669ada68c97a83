"""Quantization-aware training: scheme, quantizers, ranges."""

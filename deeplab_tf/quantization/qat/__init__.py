"""Quantization-aware training: scheme, ranges, quantizers."""

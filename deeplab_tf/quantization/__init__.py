"""Quantization-aware schemes and the rewriting of batch norms and weights."""

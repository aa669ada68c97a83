"""Post-training quantization, step by step."""

"""Post-training quantization: equalization, bias absorption, bias correction, sensitivity."""

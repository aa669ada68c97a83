"""Post-training quantization, quantization-aware training, AdaRound and calibration."""

"""Losses, schedules, the step loop, checkpoints and the quantization switch."""

"""Calibration: checks of the images, activation ranges, empty pixels."""

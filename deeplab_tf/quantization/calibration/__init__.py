"""Calibration: images, and the ranges that are chosen from them."""

"""Accelerators: which operators they take."""

"""Experiments that convert and score many files."""

"""Comparisons and measurements over many conversions."""

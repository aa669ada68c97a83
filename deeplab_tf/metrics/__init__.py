"""Measures of agreement, of overlap, and of how sure they are."""

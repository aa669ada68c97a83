"""Weights from elsewhere: matching by name, other formats, other frameworks."""

"""Structured pruning of network graphs: groups of channels, which to remove, reconstruction."""

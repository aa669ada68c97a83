"""Finds errors between a trained network and its masks, and names their remedies."""

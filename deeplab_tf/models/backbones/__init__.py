"""Backbones: the networks that extract features."""

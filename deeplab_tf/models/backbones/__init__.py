"""Backbones: the networks that features come from."""

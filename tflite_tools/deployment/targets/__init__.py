"""Predicts which operators of a file run on an accelerator."""

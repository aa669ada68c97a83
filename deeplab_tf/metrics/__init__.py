"""Metrics: confusion matrices, IoU, boundary IoU, cross-entropy, confidence intervals."""

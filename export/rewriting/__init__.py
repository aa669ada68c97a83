"""Rewrites finished files: mixed precision, and resizes that accelerators map."""

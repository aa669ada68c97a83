"""Prepares a finished file for a device: metadata, test vectors, checks for programs and chips."""

"""Fetching data sets: sources, resumable downloads, safe extraction."""

"""Download of data sets: sources, resumable downloads, safe extraction."""

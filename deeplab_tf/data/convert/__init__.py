"""Converts labels as annotation programs write them into the folder layout that trains."""

"""Collects, draws and writes one self-contained web page about a set of files."""

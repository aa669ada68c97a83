"""One self-contained web page about a set of files: collect, draw, write."""

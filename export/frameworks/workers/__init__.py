"""Scripts that run in a framework's own environment; they import nothing of this project."""

"""Loading of weights: matching by name or structure, file formats, other frameworks."""

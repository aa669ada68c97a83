"""Changes of finished files: mixed precision, forms for accelerators."""

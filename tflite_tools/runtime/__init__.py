"""Running `.tflite` files: interpreters, child processes, outputs."""

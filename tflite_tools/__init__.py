"""Everything that reads or runs a `.tflite` file."""

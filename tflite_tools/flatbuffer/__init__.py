"""The bytes of a `.tflite`: read, checked, edited, packed."""

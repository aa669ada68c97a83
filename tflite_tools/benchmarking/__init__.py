"""What a `.tflite` costs in time, and where the time goes."""

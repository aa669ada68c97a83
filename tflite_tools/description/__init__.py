"""What a `.tflite` takes, gives and costs, at a glance."""

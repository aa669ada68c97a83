"""From trained weights to `.tflite` files: freeze, calibrate, convert, check."""

"""Networks of other frameworks as float `.tflite` files, checked against the framework itself."""

"""Writes a web page that runs a `.tflite` on a phone: web runtime, contract, page."""

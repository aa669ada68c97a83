"""Converts a `.tflite` file to a Keras network that can be trained.

`.tflite` -> Graph (`tflite_tools.flatbuffer.graph`) -> one rule per operator (`rules`)
-> description, float weights, activation ranges, report -> run folder. The package connects the
file reader and the network graph, which do not import each other.
"""

"""A `.tflite` file becomes a Keras network that can be trained again.

`.tflite` -> Graph (`tflite_tools.flatbuffer.graph`) -> one rule an operator (`rules`)
-> description, float weights, activation ranges, report -> run folder. This package is a command
with its parts: it joins the file reader with the network graph, which neither knows of the other.
"""

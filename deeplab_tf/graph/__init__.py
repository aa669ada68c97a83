"""The network graph: its data, edits, conversion from and to Keras, and its executor."""

"""The network graph: data, its edits, its Keras form, and the one machine that runs it."""

"""Appends an ARG_MAX to a model with logits, which gives the output that MediaPipe misreads."""

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from tflite_tools.flatbuffer.editor import Editor


def with_arg_max(content: bytes) -> bytes:
    """Returns a `.tflite` that gives int32 [1, height, width] instead of logits.

    Args:
        content: a `.tflite` with logits.
    """
    editor = Editor(content)
    logits = int(editor.graph.outputs[0])
    axis = editor.add_constant("axis", np.array(3, "<i4"))
    shape = editor.tensor(logits).shape[:3]
    classes = editor.add_tensor("classes", shape, kind=schema.TensorType.INT32)
    options = schema.ArgMaxOptionsT()
    options.outputType = schema.TensorType.INT32
    operator = editor.new_operator("ARG_MAX", [logits, axis], outputs=[classes], options=options)
    editor.graph.operators.append(operator)
    editor.graph.outputs = [classes]
    editor.model.signatureDefs = None  # they name the logits
    return editor.to_bytes()

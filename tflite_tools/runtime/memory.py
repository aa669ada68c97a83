"""How much memory the interpreter of a file may need, from the file alone."""

import math
import pathlib

from deeplab_tf import child_process
from tflite_tools.flatbuffer.graph import Graph, read_graph
from tflite_tools.flatbuffer.graph_checks import has_unknown_shapes

_FILE_COPIES = 16
"""The file in memory, its weights packed for XNNPACK, and 4-bit or 8-bit weights as float."""
_TENSOR_COPIES = 3
"""The values of all tensors at once, a kernel's scratch memory, and the copies that are read."""
UNKNOWN = child_process.WHOLE_MACHINE
"""Of a file whose shapes are known only when it runs: the memory of the machine is the limit."""


def needed_bytes(graph: Graph) -> int:
    """Returns the most memory that a file's interpreter should take, without the runtime's own.

    Args:
        graph: of the file.
    """
    if has_unknown_shapes(graph):
        return UNKNOWN
    values = sum(
        math.prod(tensor.shape) * (tensor.dtype.itemsize if tensor.dtype else 1)
        for tensor in graph.tensors
    )
    return _FILE_COPIES * graph.size_bytes + _TENSOR_COPIES * values


def needed_bytes_of(path: pathlib.Path) -> int:
    """Returns the same for a file that may not be readable as a graph.

    Args:
        path: of the file.
    """
    try:
        return needed_bytes(read_graph(path))
    except (ValueError, OSError):  # opening it will say why
        return UNKNOWN

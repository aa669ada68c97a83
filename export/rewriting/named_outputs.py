"""Puts the outputs of a converted file into an order and gives them names.

The converter orders several outputs as it likes and names them after its own functions; only the
signature says which is which.
"""

from collections.abc import Sequence

import numpy as np

from tflite_tools.flatbuffer.editor import Editor

_KEY = "output_"
"""The n-th value of a frozen function is "output_n" in its signature."""


def name_outputs(content: bytes, named: Sequence[tuple[int, str]]) -> bytes:
    """Orders and names the outputs of a file.

    Args:
        content: a converted file with one signature.
        named: (number of the value that the frozen function returns, name) of every output, in the
            order that the file gets.

    Returns:
        The file.

    Raises:
        ValueError: the file has other outputs.
    """
    editor = Editor(content)
    entries = [
        entry for signature in editor.model.signatureDefs or [] for entry in signature.outputs
    ]
    found = {int(entry.name.decode().removeprefix(_KEY)): entry for entry in entries}
    if sorted(found) != sorted(number for number, _ in named):
        raise ValueError(f"expected {len(named)} outputs, the file has {len(found)}")
    for number, name in named:
        entry = found[number]
        editor.tensor(entry.tensorIndex).name = entry.name = name.encode()
    order = [found[number].tensorIndex for number, _ in named]
    editor.graph.outputs = np.array(order, np.int32)
    return editor.to_bytes()

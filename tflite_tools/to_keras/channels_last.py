"""A file as it is imported: with images [1, height, width, channels] at both ends."""

import contextlib
from collections.abc import Iterator

from absl import logging

from deeplab_tf.scratch import scratch_folder
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.flatbuffer.graph import Graph, read_graph
from tflite_tools.flatbuffer.layout import without_outer_transposes


@contextlib.contextmanager
def channels_last(graph: Graph) -> Iterator[Graph]:
    """Gives the graph without the transposes that a PyTorch or ONNX converter put at its ends.

    Args:
        graph: the file.

    Yields:
        the graph of an edited copy, which exists until the context ends; the given one where there
        is nothing to remove.
    """
    content = without_outer_transposes(read_model_bytes(graph.path), graph)
    if content is None:
        yield graph
        return
    with scratch_folder("channels-last") as folder:
        copy = folder / graph.path.name
        copy.write_bytes(content)
        edited = read_graph(copy)
        for place, before, after in (
            ("input", graph.inputs[0], edited.inputs[0]),
            ("output", graph.outputs[0], edited.outputs[0]),
        ):
            old, new = graph.tensors[before].shape, edited.tensors[after].shape
            if old != new:
                logging.info(
                    "%s: its %s %s is taken as %s: the transpose is removed",
                    graph.path,
                    place,
                    list(old),
                    list(new),
                )
        try:
            yield edited
        except ValueError as error:
            raise ValueError(str(error).replace(str(copy), str(graph.path))) from error

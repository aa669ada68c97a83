"""A network of any source as one flat graph: converted to a float file and imported from it.

Nested models, operators outside layers, attention and foreign graphs all end in the operators of
the schema, which the importer knows. Batch norms are folded on the way.
"""

import pathlib
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

from deeplab_tf.data.preprocessing import Preprocessing
from deeplab_tf.graph.build import build_model
from deeplab_tf.scratch import scratch_folder
from deeplab_tf.weights.matching import load_named
from export.conversion.convert import Conversion, ConverterProcess
from export.conversion.freeze import write_saved_model
from export.conversion.variants import FileSpec, Head, IoDtype, Variant
from export.rewriting.named_outputs import name_outputs
from tflite_tools.flatbuffer.graph import Graph, read_checked_graph
from tflite_tools.to_keras import self_check
from tflite_tools.to_keras.importer import ImportedNetwork, import_graph

_SEED = 0


def imported_network(
    frozen: tf.types.experimental.ConcreteFunction,
    name: str,
    *,
    named_outputs: Sequence[tuple[int, str]] = (),
) -> keras.Model:
    """Returns a frozen network as a flat Keras network, after comparing what both compute.

    Args:
        frozen: float32 [1, height, width, channels] -> one output.
        name: of the source, for messages.
        named_outputs: of several outputs, see `Source.named_outputs`.

    Returns:
        float32 [batch, height, width, channels] -> float32 scores [batch, h, w, classes], and the
        further outputs in the source's order.

    Raises:
        ValueError: an operator cannot be imported, the output is no map of scores, or the
            imported network computes something else.
        RuntimeError: the converter refuses.
    """
    with scratch_folder("import") as folder:
        path = folder / f"{pathlib.Path(name).name}.tflite"
        path.write_bytes(float_file(frozen, named_outputs))
        try:
            graph = read_checked_graph(path)
            network = import_graph(graph, output=_own(named_outputs))
            self_check.check(graph, network, inputs=_inputs(graph), description="2 random inputs")
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), name)) from error
    model = _in_order(build_model(network.description, all_outputs=True), network, named_outputs)
    load_named(model, network.arrays)
    scores = model.outputs[0]
    if scores.shape.rank != 4 or not scores.dtype.is_floating:
        raise ValueError(
            f"{name}: post-training steps expected scores [batch, height, width, classes], got "
            f"{scores.dtype.name} {list(scores.shape)}; give the network without "
            "its last steps"
        )
    return model


def _own(named_outputs: Sequence[tuple[int, str]]) -> str:
    return next((name for number, name in named_outputs if number == 0), "")


def _in_order(
    model: keras.Model, network: ImportedNetwork, named_outputs: Sequence[tuple[int, str]]
) -> keras.Model:
    """Returns the imported model with its outputs in the order of the source's model."""
    if not named_outputs:
        return model
    node_of = {name: node for node, name in network.description.named_outputs}
    outputs = dict(zip(network.description.outputs, model.outputs, strict=True))
    return keras.Model(model.inputs, [outputs[node_of[name]] for _, name in sorted(named_outputs)])


def float_file(
    frozen: tf.types.experimental.ConcreteFunction, named_outputs: Sequence[tuple[int, str]] = ()
) -> bytes:
    """Converts a frozen network to a float32 `.tflite`.

    Args:
        frozen: [1, height, width, channels] -> one output, or those of `named_outputs`.
        named_outputs: of several outputs, see `Source.named_outputs`.

    Raises:
        RuntimeError: the converter refuses.
    """
    with scratch_folder("float") as folder, ConverterProcess() as converter:
        saved_model = folder / "saved_model"
        write_saved_model(frozen, saved_model)
        conversion = Conversion(
            saved_model,
            FileSpec(Variant.FLOAT32, Head.LOGITS, IoDtype.FLOAT32, IoDtype.FLOAT32),
            calibration_file=None,
            preprocessing=Preprocessing.of(int(frozen.inputs[0].shape[-1])),
        )
        content = converter.convert(conversion)
    return name_outputs(content, named_outputs) if named_outputs else content


def _inputs(graph: Graph) -> list[np.ndarray]:
    """Returns noise around zero and noise of pixel values: either may be the network's input."""
    shape = graph.tensors[graph.inputs[0]].shape
    generator = np.random.default_rng(_SEED)
    noise = [generator.uniform(-3, 3, shape), generator.uniform(0, 255, shape)]
    return [values.astype(np.float32) for values in noise]

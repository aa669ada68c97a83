"""Networks as frozen functions of static shape: weights as constants, batch 1, one signature.

With a dynamic batch the converter turns every atrous convolution into SPACE_TO_BATCH, convolution
and BATCH_TO_SPACE, and does not fold the batch norm behind it.
"""

import contextlib
import logging
import pathlib
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
import tf_keras as keras
from google.protobuf.message import DecodeError
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from deeplab_tf import atomic_file, bounded_file
from deeplab_tf.data.alignment import Alignment
from deeplab_tf.scratch import partial_folder
from export.conversion.foreign_operators import (
    LARGEST_PROTOBUF,
    SAVED_MODEL,
    check_graph,
    checked_saved_model,
)
from export.conversion.head import apply_head
from export.conversion.variants import Head

INPUT_NAME = "image"
SIGNATURE = "serving_default"
FROZEN_GRAPH = "frozen_inference_graph.pb"


def freeze_model(
    model: keras.Model, head: Head, *, alignment: Alignment = Alignment.HALF_PIXEL
) -> tf.types.experimental.ConcreteFunction:
    """Freezes a network with a head.

    Args:
        model: image float32 [batch, height, width, channels] -> logits [batch, h, w, classes], and
            perhaps further outputs behind them.
        head: which head.
        alignment: convention by which logits are resized.

    Returns:
        concrete function float32 [1, height, width, channels] -> the head's output, and the
        further outputs as they are.
    """
    _, height, width, channels = model.input_shape
    threshold = 0.5 if _ends_in_sigmoid(model) else 0.0

    @tf.function
    def serve(image: tf.Tensor) -> tf.Tensor | list[tf.Tensor]:
        values = model(image, training=False)
        logits, *further = values if isinstance(values, list) else [values]
        output = apply_head(
            logits, head, height=height, width=width, alignment=alignment, threshold=threshold
        )
        return [output, *further] if further else output

    spec = tf.TensorSpec([1, height, width, channels], tf.float32, name=INPUT_NAME)
    return convert_variables_to_constants_v2(serve.get_concrete_function(spec))


def _ends_in_sigmoid(model: keras.Model) -> bool:
    """Returns whether the network gives probabilities of one class each."""
    if not isinstance(model, keras.Model) or not getattr(model, "output_names", None):
        return False
    last = model.get_layer(model.output_names[0])
    return getattr(last, "activation", None) is keras.activations.sigmoid


def freeze_saved_model(
    folder: pathlib.Path, height: int, *, width: int, trusted: bool = False, output: str = ""
) -> tf.types.experimental.ConcreteFunction:
    """Freezes the default or only signature of a SavedModel at batch 1 and the given size.

    Args:
        folder: of the SavedModel.
        height: of the image.
        width: of the image.
        trusted: load it without checking its operators.
        output: name of the output; "" where there is one.

    Returns:
        concrete function [1, height, width, channels] -> one output.

    Raises:
        ValueError: no SavedModel, an operator that is refused, or not one image input and one
            output.
    """
    if trusted:
        loaded = tf.saved_model.load(str(folder))
        return _freeze_loaded(folder, loaded, height=height, width=width, output=output)
    with checked_saved_model(folder) as checked:
        try:
            loaded = tf.saved_model.load(str(checked))
        except Exception as error:  # a damaged file raises whatever it leads to
            reason = str(error).replace(str(checked), str(folder))
            raise ValueError(f"{folder}: TensorFlow cannot load it ({reason})") from error
        return _freeze_loaded(folder, loaded, height=height, width=width, output=output)


def _freeze_loaded(
    folder: pathlib.Path, loaded: Any, *, height: int, width: int, output: str
) -> tf.types.experimental.ConcreteFunction:
    signature = _signature(folder, loaded.signatures)
    _, inputs = signature.structured_input_signature
    if len(inputs) != 1:
        raise ValueError(
            f"{folder}: the signature must have one input, got {', '.join(sorted(inputs))}; save "
            "it with one"
        )
    input_name, spec = next(iter(inputs.items()))
    outputs = sorted(signature.structured_outputs)
    if output not in outputs and (output or len(outputs) != 1):
        raise ValueError(
            f"{folder}: "
            + (f"no output {output!r}" if output else f"{len(outputs)} outputs")
            + f"; give --output, one of {', '.join(outputs)}"
        )
    output_name = output or outputs[0]

    @tf.function
    def serve(image: tf.Tensor) -> tf.Tensor:
        return signature(**{input_name: image})[output_name]

    channels = spec.shape[-1]
    static = tf.TensorSpec([1, height, width, channels], spec.dtype, name=INPUT_NAME)
    try:
        return convert_variables_to_constants_v2(serve.get_concrete_function(static))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{folder}: does not take [1, {height}, {width}, {channels}] "
            f"(signature {spec}); give its size with --size"
        ) from error


def _signature(folder: pathlib.Path, signatures: Any) -> Any:
    """Returns the default signature of a loaded SavedModel, or its only one."""
    names = sorted(signatures)
    if SIGNATURE in names:
        return signatures[SIGNATURE]
    if len(names) != 1:
        raise ValueError(
            f"{folder}: expected a signature {SIGNATURE!r} or a single one, got "
            f"{', '.join(names) or 'none'}; save it with one signature"
        )
    return signatures[names[0]]


def read_graph(path: pathlib.Path, *, trusted: bool = False) -> tf.compat.v1.GraphDef:
    """Reads a TF1 frozen graph.

    Args:
        path: the `.pb` file.
        trusted: do not check its operators.

    Returns:
        the graph as it is stored.

    Raises:
        ValueError: not a graph, or an operator that is refused unless `trusted`.
    """
    graph_def = tf.compat.v1.GraphDef()
    try:
        graph_def.ParseFromString(bounded_file.read_bytes(path, limit=LARGEST_PROTOBUF))
    except DecodeError as error:
        raise ValueError(f"{path}: not a frozen graph ({error})") from error
    if not graph_def.node:
        raise ValueError(
            f"{path}: not a frozen graph (it holds no node); for a {SAVED_MODEL}, give its folder "
            "as --saved_model"
        )
    if not trusted:
        check_graph(path, graph_def)
    return graph_def


def freeze_graph(
    path: pathlib.Path,
    input_array: str,
    *,
    output_array: str,
    height: int,
    width: int,
    trusted: bool = False,
) -> tf.types.experimental.ConcreteFunction:
    """Freezes a TF1 frozen graph at batch 1 and the given size.

    Args:
        path: the `.pb` file.
        input_array: name of the node that takes the image.
        output_array: name of the node that gives the output.
        height: of the image.
        width: of the image.
        trusted: do not check its operators.

    Returns:
        concrete function [1, height, width, channels] -> one output.

    Raises:
        ValueError: not a graph, an operator that is refused unless `trusted`, an unknown array,
            or a size that the graph refuses.
    """
    graph_def = read_graph(path, trusted=trusted)
    nodes = {node.name: node for node in graph_def.node}
    for array in (input_array, output_array):
        if array not in nodes:
            listed = [node.name for node in graph_def.node]
            raise ValueError(
                f"{path}: no array {array!r}; its first is {listed[:1]}, its last {listed[-1:]}"
            )
    node = nodes[input_array]
    dtype = tf.as_dtype(node.attr["dtype"].type)
    shape = tf.TensorShape(node.attr["shape"].shape)
    channels = shape[-1] if shape.rank == 4 else None

    @tf.function
    def serve(image: tf.Tensor) -> tf.Tensor:
        (output,) = tf.graph_util.import_graph_def(
            graph_def, {f"{input_array}:0": image}, [f"{output_array}:0"], name=""
        )
        return output

    try:
        spec = tf.TensorSpec([1, height, width, channels or 3], dtype, name=INPUT_NAME)
        return convert_variables_to_constants_v2(serve.get_concrete_function(spec))
    except ValueError as error:
        raise ValueError(
            f"{path}: does not take [1, {height}, {width}, {channels or 3}]; its input is {shape}"
        ) from error


def write_saved_model(frozen: tf.types.experimental.ConcreteFunction, folder: pathlib.Path) -> None:
    """Writes a SavedModel with one signature, and `frozen_inference_graph.pb` inside it.

    The folder appears only when it is complete; an existing one is replaced.

    Args:
        frozen: the function.
        folder: where to write.
    """
    with partial_folder(folder) as temporary:
        module = tf.Module()
        module.serve = frozen
        # Nobody trains a frozen function; the gradients of swish could not be saved either.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        with _without_notes():
            tf.saved_model.save(module, str(temporary), signatures=frozen, options=options)
        graph = frozen.graph.as_graph_def().SerializeToString()
        atomic_file.write_bytes(temporary / FROZEN_GRAPH, graph)


@contextlib.contextmanager
def _without_notes() -> Iterator[None]:
    """Keeps "Assets written to ..." out of notebooks, where TensorFlow shows its notes."""
    logger = tf.get_logger()
    level = logger.level
    logger.setLevel(max(level, logging.WARNING))
    try:
        yield
    finally:
        logger.setLevel(level)

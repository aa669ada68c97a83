"""Says what each output of a file is, from its shape, its type and the operators before it."""

import dataclasses

from tflite_tools.contract import class_count
from tflite_tools.flatbuffer.graph import Graph, Tensor
from tflite_tools.input_contract import per_tensor
from tflite_tools.output_form import OutputForm, form_of_output

_DETECTION = "CUSTOM:TFLite_Detection_PostProcess"
_DETECTIONS = ("boxes", "classes of the boxes", "scores of the boxes", "number of boxes")
_KEEP_VALUES = ("QUANTIZE", "DEQUANTIZE", "RESHAPE", "SQUEEZE")


@dataclasses.dataclass(frozen=True)
class OutputDescription:
    """One output.

    Attributes:
        position: in the file's list of outputs.
        name: of the tensor.
        dtype: "int8" for example.
        shape: with the batch.
        quantization: (scale, zero point) or None.
        kind: "logits", "probabilities", "score", "class map", "boxes", "vector" or "values".
        meaning: one sentence.
        classes: number of classes, if it has classes and that is known.
        is_mask: whether the commands of this project read it as a mask.
    """

    position: int
    name: str
    dtype: str
    shape: tuple[int, ...]
    quantization: tuple[float, int] | None
    kind: str
    meaning: str
    classes: int | None = None
    is_mask: bool = False


def describe_outputs(graph: Graph, size: tuple[int, int] | None) -> tuple[OutputDescription, ...]:
    """Describes all outputs of a file, in order.

    Args:
        graph: of the file.
        size: (height, width) of its input, or None if that is no image.
    """
    return tuple(_describe(graph, position, size=size) for position in range(len(graph.outputs)))


def _describe(graph: Graph, position: int, *, size: tuple[int, int] | None) -> OutputDescription:
    tensor = graph.tensors[graph.outputs[position]]
    form = form_of_output(graph, position, size=size) if size else None
    classes = class_count(graph, form.num_classes, output=tensor.index) if form else None
    kind, meaning = _mask(form, classes, size=size) if form and size else _other(graph, tensor)
    return OutputDescription(
        position,
        tensor.name,
        dtype=tensor.type_name.lower(),
        shape=tensor.shape,
        quantization=None if tensor.quantization is None else per_tensor(tensor),
        kind=kind,
        meaning=meaning,
        classes=classes,
        is_mask=form is not None,
    )


def _mask(form: OutputForm, classes: int | None, *, size: tuple[int, int]) -> tuple[str, str]:
    """Returns kind and meaning of an output that can be read as a mask."""
    if form.classes_output:
        count = f" of {classes} classes" if classes else ""
        return "class map", f"class map{count}: one class number per pixel"
    place = _place((form.shape[1], form.shape[2]), size)
    if form.threshold is not None:
        if form.probabilities:
            return "probabilities", f"one probability per pixel: foreground from 0.5 on{place}"
        return "score", f"one score per pixel: foreground above 0 (of a logit){place}"
    if form.probabilities:
        return "probabilities", f"probabilities of {form.num_classes} classes{place}"
    picture = form.num_classes == 3 and min(form.shape[1:3]) >= min(size)
    doubt = "; or a picture: three channels, no softmax" if picture else ""
    return "logits", f"logits of {form.num_classes} classes{place}{doubt}"


def _place(found: tuple[int, int], size: tuple[int, int]) -> str:
    if found == size:
        return ""
    return f", at {found[0]} x {found[1]}: resize to {size[0]} x {size[1]}"


def _other(graph: Graph, tensor: Tensor) -> tuple[str, str]:
    """Returns kind and meaning of an output that is no mask."""
    last = graph.producer(tensor.index)
    if last is not None and last.kind == _DETECTION:
        slot = last.outputs.index(tensor.index)
        return "boxes", _DETECTIONS[slot] if slot < len(_DETECTIONS) else "of a detector"
    while last is not None and last.kind in _KEEP_VALUES and last.inputs:
        last = graph.producer(last.inputs[0])
    sums = {"SOFTMAX": ", probabilities (softmax)", "LOGISTIC": ", each from 0 to 1 (sigmoid)"}
    end = sums.get(last.kind, "") if last is not None else ""
    shape = [length for length in tensor.shape if length != 1]
    if len(shape) == 2 and shape[1] == 4:
        return "boxes", f"probably {shape[0]} boxes of 4 values{end}"
    if len(shape) == 2:
        return "boxes", f"{shape[0]} rows of {shape[1]} values, as detectors have them{end}"
    if len(shape) <= 1:
        count = shape[0] if shape else 1
        return "vector", f"{count} value{'s' * (count != 1)}, no mask{end}"
    return "values", f"values {list(tensor.shape)}, no mask{end}"

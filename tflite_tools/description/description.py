"""Collects what a person asks first about a `.tflite`."""

import collections
import dataclasses
import math
import pathlib

from deeplab_tf.data.preprocessing import Preprocessing
from tflite_tools.benchmarking.profile import Profile, profile
from tflite_tools.contract import ModelContract, guess_variant, read_contract
from tflite_tools.description.advice import Advice, advise
from tflite_tools.description.feeding_code import kotlin_lines, python_lines
from tflite_tools.description.outputs import OutputDescription, describe_outputs
from tflite_tools.download_size import download_bytes
from tflite_tools.flatbuffer.graph import Graph, read_graph
from tflite_tools.flatbuffer.layout import channels_first_input
from tflite_tools.flatbuffer.multiply_adds import multiply_adds
from tflite_tools.flatbuffer.operators import CONVOLUTIONS, traits
from tflite_tools.input_contract import (
    NOT_ON_RECORD,
    InputContract,
    PreprocessingSource,
    input_contract,
    read_description,
    takes_bytes,
)
from tflite_tools.likely_normalizations import implied_normalization
from tflite_tools.runtime.runtime_shapes import with_known_shapes

_STATED = {
    PreprocessingSource.GIVEN: ("given", "as the flags say"),
    PreprocessingSource.MANIFEST: ("stated", "stated by the manifest next to the file"),
    PreprocessingSource.METADATA: ("stated", "stated by the metadata inside the file"),
}


@dataclasses.dataclass(frozen=True)
class InputDescription:
    """One input.

    Attributes:
        name: of the tensor.
        dtype: "uint8" for example.
        shape: with the batch; lengths that may change are stored as 1.
        layout: "NHWC", "NCHW" (channels first), or "" for what is no image.
        dynamic: whether a length may change.
        quantization: (scale, zero point) or None.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    layout: str
    dynamic: bool
    quantization: tuple[float, int] | None


@dataclasses.dataclass(frozen=True)
class OperatorCount:
    """All operators of one kind.

    Attributes:
        kind: "CONV_2D" for example.
        count: how many there are.
        multiply_adds: of one run.
        time_share: of the time of one run, or None if it was not measured.
    """

    kind: str
    count: int
    multiply_adds: int
    time_share: float | None


@dataclasses.dataclass(frozen=True)
class Description:
    """What a file takes, gives and costs.

    Attributes:
        path: the file.
        size_bytes: of the file.
        download_bytes: of the file, deflated as shops and browsers send it.
        inputs: all inputs.
        contract: of the first input, if it is an image; else None.
        certainty: how sure the normalization is: "given", "stated", "implied", "unknown", or
            "bytes" where the input takes the pixels themselves.
        normalization: one line for a person.
        outputs: all outputs.
        read_output: position of the one that is read as the mask, or None.
        labels: class names on record.
        variant: number format.
        per_channel: whether weights have one scale per channel; None for float weights.
        operators: by kind, the most frequent first.
        multiply_adds: of one run.
        ms: fastest run on this machine with one thread, or None if it was not measured.
        advice: what would save most time.
        python: lines that feed it, or "" if it takes no photo.
        kotlin: the same for Android.
        warnings: what does not fit together, one line each.
    """

    path: pathlib.Path
    size_bytes: int
    download_bytes: int
    inputs: tuple[InputDescription, ...]
    contract: InputContract | None
    certainty: str
    normalization: str
    outputs: tuple[OutputDescription, ...]
    read_output: int | None
    labels: tuple[str, ...]
    variant: str
    per_channel: bool | None
    operators: tuple[OperatorCount, ...]
    multiply_adds: int
    ms: float | None
    advice: Advice
    python: str
    kotlin: str
    warnings: tuple[str, ...]


def describe(
    path: pathlib.Path,
    given: Preprocessing | None = None,
    *,
    output: str = "",
    repeats: int = 5,
) -> Description:
    """Describes a file; it runs for a second or two in a child process if it is timed.

    Args:
        path: the file.
        given: normalization of the pixels, if the caller states it.
        output: name or number of the output that is read as the mask; "" for the first that can be.
        repeats: timed runs; 0 for none.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a `.tflite`, damaged, or its manifest is of another file.
    """
    graph = with_known_shapes(read_graph(path), outputs=True)
    image, channels_first = graph.tensors[graph.inputs[0]], channels_first_input(graph)
    if channels_first:
        batch, channels, height, width = image.shape
        image = dataclasses.replace(image, shape=(batch, height, width, channels))
    is_image = len(image.shape) == 4
    contract = None
    if is_image:
        stated = read_description(path, image.shape[3])
        contract = input_contract(image, stated, given=given, name=str(path))
    size = (image.shape[1], image.shape[2]) if is_image else None
    certainty, normalization = _normalization(graph, contract)
    outputs = describe_outputs(graph, size)
    model, obstacle = _model_contract(path, contract, outputs=outputs, output=output)
    warnings = [line for line in contract.warnings if line != NOT_ON_RECORD] if contract else []
    warnings += [obstacle] if obstacle else []
    times = profile([model], (1,), repeats=repeats)[0] if model and repeats else None
    if times is not None and times.failure:
        warnings.append(f"not timed: {times.failure}")
        times = None
    variant = model.variant if model else guess_variant(graph)
    code = _code(graph, model, outputs=outputs) if model else ("", "")
    return Description(
        path=path,
        size_bytes=graph.size_bytes,
        download_bytes=download_bytes(path),
        inputs=_inputs(graph, channels_first),
        contract=contract,
        certainty=certainty,
        normalization=normalization,
        outputs=outputs,
        read_output=model.output_position if model and any(o.is_mask for o in outputs) else None,
        labels=contract.labels if contract else (),
        variant=variant,
        per_channel=_per_channel(graph),
        operators=_operators(graph, times),
        multiply_adds=sum(multiply_adds(graph)),
        ms=times.whole_ms[1] if times else None,
        advice=advise(graph, variant, profile=times, size=size),
        python=code[0],
        kotlin=code[1],
        warnings=tuple(warnings),
    )


def _inputs(graph: Graph, channels_first: bool) -> tuple[InputDescription, ...]:
    order = "NCHW" if channels_first else "NHWC"
    return tuple(
        InputDescription(
            tensor.name,
            dtype=tensor.type_name.lower(),
            shape=tensor.shape,
            layout=order if len(tensor.shape) == 4 else "",
            dynamic=any(length < 0 for length in tensor.shape_signature),
            quantization=None
            if tensor.quantization is None or tensor.is_float
            else (float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])),
        )
        for tensor in (graph.tensors[index] for index in graph.inputs)
    )


def _normalization(graph: Graph, contract: InputContract | None) -> tuple[str, str]:
    """Returns how sure the normalization is, and a line about it."""
    if contract is None:
        return "unknown", "not an image: this project has no contract for it"
    used = contract.preprocessing
    low, high = used.input_range
    mean, std = (_short(part) for part in (used.mean, used.std))
    formula = f"(pixel - {mean}) / {std}, from {low + 0.0:.4g} to {high:.4g}"
    image = graph.tensors[graph.inputs[0]]
    if image.dtype is not None and takes_bytes(
        used, image.dtype, quantization=contract.quantization
    ):
        formula += f"; pixels are fed as bytes{' less 128' if image.type_name == 'INT8' else ''}"
    if contract.source is PreprocessingSource.QUANTIZATION and contract.quantization is None:
        return "bytes", "pixels themselves: the input has no scale, the graph normalizes them"
    if contract.source is PreprocessingSource.QUANTIZATION:
        return "implied", (
            f"{formula}; implied by the input's scale and zero point, stated nowhere: right if the "
            "network was calibrated on photos as it was trained"
        )
    if contract.source in _STATED:
        certainty, text = _STATED[contract.source]
        return certainty, f"{formula}; {text}"
    implied = implied_normalization(graph, used.channels)
    if implied is not None:
        low, high = implied.input_range
        return "unknown", (
            f"NOT ON RECORD; its first operators take values from {low + 0.0:.4g} to {high:.4g}, "
            f"which speaks for (pixel - {_short(implied.mean)}) / {_short(implied.std)}; compare "
            "readings of a photo with tflite_tools.segment"
        )
    return "unknown", (
        "NOT ON RECORD: ask who trained it, or compare the likely readings of a photo with "
        "tflite_tools.segment"
    )


def _short(values: tuple[float, ...]) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g}"
    return f"({', '.join(f'{value:g}' for value in values)})"


def _model_contract(
    path: pathlib.Path,
    contract: InputContract | None,
    *,
    outputs: tuple[OutputDescription, ...],
    output: str,
) -> tuple[ModelContract | None, str]:
    """Returns how the file is run, or None and the reason why it is not."""
    if contract is None:
        return None, "not timed, and no lines of code: its input is not one image"
    try:
        given = contract.preprocessing if contract.source is PreprocessingSource.GIVEN else None
        masks = any(each.is_mask for each in outputs) or bool(output)
        return read_contract(path, given, any_output=not masks, output=output), ""
    except ValueError as error:
        return None, f"not timed, and no lines of code: {error}"


def _code(
    graph: Graph, model: ModelContract, *, outputs: tuple[OutputDescription, ...]
) -> tuple[str, str]:
    if model.channels not in (1, 3):
        return "", ""
    read = outputs[model.output_position]
    tensor = graph.tensors[graph.outputs[read.position]]
    item = tensor.dtype.itemsize if tensor.dtype is not None else 1
    python = python_lines(model, is_mask=read.is_mask)
    kotlin = kotlin_lines(model, is_mask=read.is_mask, output_bytes=math.prod(tensor.shape) * item)
    return python, kotlin


def _per_channel(graph: Graph) -> bool | None:
    found = None
    for operator in graph.operators:
        if operator.kind in CONVOLUTIONS:
            weights = graph.tensors[operator.inputs[traits(operator.kind).slots[1]]]
            if weights.quantization is not None and not weights.is_float:
                found = bool(found) or weights.quantization.per_channel
    return found


def _operators(graph: Graph, times: Profile | None) -> tuple[OperatorCount, ...]:
    counts = collections.Counter(operator.kind for operator in graph.operators)
    work: collections.Counter[str] = collections.Counter()
    for operator, amount in zip(graph.operators, multiply_adds(graph), strict=True):
        work[operator.kind] += amount
    spent: collections.Counter[str] = collections.Counter()
    for each in times.operators if times else ():
        spent[each.label] += each.ms[1]  # type: ignore[assignment]
    total = sum(spent.values())
    return tuple(
        OperatorCount(
            kind,
            count,
            multiply_adds=work[kind],
            time_share=spent[kind] / total if total else None,
        )
        for kind, count in counts.most_common()
    )

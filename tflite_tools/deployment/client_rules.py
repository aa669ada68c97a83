"""Rules of other programs for a `.tflite`, above all those that they break without an error.

Each rule was measured with the program itself (`clients/` runs them again) or, for the Edge TPU,
taken from its documentation. A finding that is `fatal` causes an error there or, worse, a wrong
mask; the others cost speed, class names, or a few pixels along edges.
"""

import dataclasses
import enum
import pathlib
from collections.abc import Callable, Iterator

import numpy as np

from deeplab_tf.data.alignment import Alignment
from tflite_tools.contract import ModelContract, read_contract
from tflite_tools.flatbuffer.graph import Graph, Tensor, read_graph
from tflite_tools.metadata import packing
from tflite_tools.metadata.segmenter import SegmenterMetadata
from tflite_tools.runtime.runtime_shapes import with_known_shapes

_EXPORT = "export with"
_ADD = "python -m tflite_tools.add_metadata --model=FILE"
_MAX_ARGMAX_CHANNELS = 127
"""Vela 5.2 maps ARG_MAX over at most so many channels."""

_JAVASCRIPT_DTYPES = ("FLOAT32", "INT32", "UINT8")
"""Element types that @litertjs/core 2.5.3 has typed arrays for."""


class Client(enum.Enum):
    """A program that reads the file."""

    MEDIAPIPE = "mediapipe"
    """MediaPipe's ImageSegmenter: Python, Android, iOS, browser (measured: 1.2.2, web 1.1.0)."""
    LITERTJS = "litertjs"
    """LiteRT in a browser through @litertjs/core (measured: 2.5.3)."""
    EDGETPU = "edgetpu"
    """The Edge TPU compiler."""
    ETHOSU = "ethosu"
    """Arm's Vela compiler for Ethos-U (measured: 5.2.0)."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One rule that a file breaks.

    Attributes:
        fault: what was found and its effect on the client.
        cure: what to do.
        fatal: True for an error or a wrong mask, False for a smaller cost.
    """

    fault: str
    cure: str
    fatal: bool = True


@dataclasses.dataclass(frozen=True)
class InspectedFile:
    """The input of the rules.

    Attributes:
        graph: of the file.
        metadata: its own, or None.
        contract: how it is fed and read.
    """

    graph: Graph
    metadata: SegmenterMetadata | None
    contract: ModelContract

    @property
    def image(self) -> Tensor:
        """The input tensor."""
        return self.graph.tensors[self.graph.inputs[0]]

    @property
    def output(self) -> Tensor:
        """The output that is read."""
        return self.graph.tensors[self.graph.outputs[self.contract.output_position]]


def check_file(path: str | pathlib.Path, client: Client) -> list[Finding]:
    """Returns the rules of a client that a file breaks, fatal ones first.

    Args:
        path: the file.
        client: the program.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or its manifest describes another file.
    """
    graph = with_known_shapes(read_graph(path))
    inspected = InspectedFile(graph, packing.read(path), contract=read_contract(path))
    findings = [finding for rule in RULES[client] for finding in rule(inspected)]
    return sorted(findings, key=lambda finding: not finding.fatal)


def findings_text(path: pathlib.Path, client: Client, *, findings: list[Finding]) -> str:
    """Formats one line per finding, or one line if there is none.

    Args:
        path: the file.
        client: the program.
        findings: of `check_file`.
    """
    begin = f"{path}: {client.value}: "
    if not findings:
        compiler = client in (Client.EDGETPU, Client.ETHOSU)
        return begin + (
            "its format is accepted; the compiler decides which operators are mapped"
            if compiler
            else "accepted as it is"
        )
    return "\n".join(
        f"{begin}{'REFUSED' if finding.fatal else 'note'}: {finding.fault}; {finding.cure}"
        for finding in findings
    )


def _form(tensor: Tensor) -> str:
    return f"{tensor.type_name.lower()} {list(tensor.shape_signature)}"


def _static_batch_one(file: InspectedFile) -> Iterator[Finding]:
    dynamic = [t for t in file.graph.tensors if -1 in t.shape_signature and t.data is None]
    if dynamic or file.image.shape[:1] != (1,):
        yield Finding(
            f"the input is {_form(file.image)}, {len(dynamic)} tensors have a dynamic size",
            "convert with a fixed batch of 1 (export.to_tflite always does)",
        )


def _one_input_one_output(file: InspectedFile) -> Iterator[Finding]:
    inputs, outputs = len(file.graph.inputs), len(file.graph.outputs)
    if inputs != 1 or outputs != 1:
        yield Finding(
            f"expected one input and one output, got {inputs} and {outputs}",
            "reduce the graph to the image and the logits",
        )


def _mediapipe_input(file: InspectedFile) -> Iterator[Finding]:
    image = file.image
    if image.type_name not in ("UINT8", "FLOAT32"):
        yield Finding(
            f"the input is {_form(image)}; only uint8 and float32 are accepted",
            f"{_EXPORT} --input_dtype=uint8",
        )
    if len(image.shape) == 4 and image.shape[3] != 3:
        yield Finding(
            f"the input has {image.shape[3]} channels; only RGB is fed", "train with 3 channels"
        )
    if image.type_name == "UINT8" and not _pixels_are_fed_unchanged(file):
        yield Finding(
            "the input's scale and zero point require other bytes than the camera's, which are fed "
            "unchanged: the mask would be wrong without an error",
            f"{_EXPORT} the same mean and std for all channels, or --input_dtype=float32",
        )
    if image.type_name == "FLOAT32" and not (file.metadata and file.metadata.preprocessing):
        yield Finding("a float input without normalization in the metadata is an error", _ADD)


def _pixels_are_fed_unchanged(file: InspectedFile) -> bool:
    """Returns whether pixels equal the input's values within one gray level."""
    table = file.contract.quantize_table()
    return table is None or bool(np.abs(table - np.arange(256.0)[:, None]).max() <= 1)


def _mediapipe_output(file: InspectedFile) -> Iterator[Finding]:
    output = file.output
    cure = f"{_EXPORT} --heads=logits; MediaPipe computes the arg max itself"
    if output.type_name == "INT64":
        yield Finding(f"the output is {_form(output)}: an error at the first image", cure)
    elif len(output.shape) != 4 or output.shape[3] < 2:
        yield Finding(
            f"the output is {_form(output)}, a class map: its rows are read as classes, the "
            "mask is wrong without an error",
            cure,
        )
    elif output.type_name not in ("UINT8", "INT8", "FLOAT32"):
        yield Finding(
            f"the output is {_form(output)}; only uint8, int8 and float32 are accepted",
            f"{_EXPORT} --output_dtype=uint8",
        )
    elif file.contract.needs_resize and file.contract.alignment is not Alignment.ALIGN_CORNERS:
        trained = file.contract.alignment
        yield Finding(
            f"logits of {output.shape[1]}x{output.shape[2]} are enlarged with align_corners, "
            + (
                f"the training resizes {trained.value}: edges move by up to half a cell"
                if trained
                else "the training's resize is not on record: edges may move by up to half a cell"
            ),
            f"{_EXPORT} --heads=logits for the exact mask",
            fatal=False,
        )


def _own_resize(file: InspectedFile) -> Iterator[Finding]:
    """A program that enlarges the logits itself must do so as the training did."""
    if not file.contract.needs_resize:
        return
    rows, columns = file.contract.output_size
    form = "the class map" if file.contract.classes_output else "logits"
    trained = file.contract.alignment
    yield Finding(
        f"{form} of {rows}x{columns} must be resized to {file.contract.height}x"
        f"{file.contract.width} by the program that reads them, "
        + (f"with {trained.value}" if trained else "and the convention is not on record"),
        f"resize with {trained.value} before the arg max"
        if trained
        else f"{_ADD} --resize=CONVENTION, the one of the training",
        fatal=False,
    )


def _labels_fit(file: InspectedFile) -> Iterator[Finding]:
    labels = file.metadata.labels if file.metadata else ()
    channels = file.output.shape[-1]
    if labels and len(file.output.shape) == 4 and len(labels) != channels:
        yield Finding(
            f"{len(labels)} labels for {channels} channels: this is not checked there, names are "
            "wrong without an error",
            f"{_ADD} --labels=LABELS",
        )
    if not labels:
        yield Finding("no labels in the file: its classes have no names", _ADD, fatal=False)


def _javascript_ends(file: InspectedFile) -> Iterator[Finding]:
    ends = (("input", file.image, "input_dtype"), ("output", file.output, "output_dtype"))
    for place, tensor, flag in ends:
        if tensor.type_name not in _JAVASCRIPT_DTYPES:
            yield Finding(
                f"the {place} is {_form(tensor)}; its tensors are float32, int32 or uint8, "
                "anything else is an error at the first image",
                f"{_EXPORT} --{flag}=uint8",
            )


def _integer_only(file: InspectedFile) -> Iterator[Finding]:
    graph = file.graph
    computed = [graph.tensors[i] for operator in graph.operators for i in operator.outputs]
    floats = [tensor for tensor in computed if tensor.is_float]
    if floats:
        yield Finding(
            f"{len(floats)} of {len(computed)} computed tensors are float, the first "
            f"{floats[0].name!r}: they run on the processor",
            f"{_EXPORT} --variants=int8 or qat_int8",
            fatal=len(floats) > len(computed) // 2,
        )


def _eight_bits(file: InspectedFile) -> Iterator[Finding]:
    wide = [t for t in file.graph.tensors if t.type_name == "INT16"]
    if wide:
        yield Finding(
            f"{len(wide)} tensors are int16; only 8-bit tensors are mapped",
            f"{_EXPORT} --variants=int8",
        )


def _integer_ends(file: InspectedFile) -> Iterator[Finding]:
    ends = (("input", file.image, "input_dtype"), ("output", file.output, "output_dtype"))
    for place, tensor, flag in ends:
        if tensor.is_float:
            yield Finding(
                f"the {place} is {_form(tensor)}: conversions run on the processor",
                f"{_EXPORT} --variants=int8 --{flag}=int8",
                fatal=False,
            )


def _no_space_to_batch(file: InspectedFile) -> Iterator[Finding]:
    kinds = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    count = sum(operator.kind in kinds for operator in file.graph.operators)
    if count:
        yield Finding(
            f"{count} SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND around atrous convolutions",
            "convert with a fixed batch of 1, which keeps dilated convolutions whole",
            fatal=False,
        )


def _argmax_on_processor(file: InspectedFile) -> Iterator[Finding]:
    if any(operator.kind == "ARG_MAX" for operator in file.graph.operators):
        yield Finding(
            "ARG_MAX is not mapped: it and all operators after it run on the processor",
            f"{_EXPORT} --heads=logits_low and take the arg max there",
            fatal=False,
        )


def _argmax_depth(file: InspectedFile) -> Iterator[Finding]:
    for operator in file.graph.operators:
        if operator.kind == "ARG_MAX":
            channels = file.graph.tensors[operator.inputs[0]].shape[-1]
            if channels > _MAX_ARGMAX_CHANNELS:
                yield Finding(
                    f"ARG_MAX over {channels} channels, at most {_MAX_ARGMAX_CHANNELS} are mapped",
                    f"{_EXPORT} --heads=logits",
                    fatal=False,
                )


def _enlarged_by_two(file: InspectedFile) -> Iterator[Finding]:
    """Ethos-U55 and U65 support half-pixel bilinear resizes only for a factor of two."""
    tensors = file.graph.tensors
    factors = []
    for operator in file.graph.operators:
        half_pixel = getattr(operator.options, "halfPixelCenters", False)
        if operator.kind != "RESIZE_BILINEAR" or not half_pixel:
            continue
        (rows, columns), target = (
            tensors[index].shape[1:3] for index in (operator.inputs[0], operator.outputs[0])
        )
        if (rows, columns) != (1, 1) and target not in ((rows, columns), (2 * rows, 2 * columns)):
            factors.append(f"{rows}x{columns} to {target[0]}x{target[1]}")
    if factors:
        yield Finding(
            f"RESIZE_BILINEAR ({', '.join(factors)}) runs on the processor of a U55 or U65, a U85 "
            "maps powers of two",
            f"{_EXPORT} --heads=logits_low to omit the last one",
            fatal=False,
        )


RULES: dict[Client, tuple[Callable[[InspectedFile], Iterator[Finding]], ...]] = {
    Client.MEDIAPIPE: (
        _static_batch_one,
        _one_input_one_output,
        _mediapipe_input,
        _mediapipe_output,
        _labels_fit,
    ),
    Client.LITERTJS: (_static_batch_one, _javascript_ends, _own_resize),
    Client.EDGETPU: (
        _static_batch_one,
        _integer_only,
        _eight_bits,
        _integer_ends,
        _no_space_to_batch,
        _argmax_on_processor,
        _own_resize,
    ),
    Client.ETHOSU: (
        _static_batch_one,
        _integer_only,
        _integer_ends,
        _no_space_to_batch,
        _argmax_depth,
        _enlarged_by_two,
        _own_resize,
    ),
}

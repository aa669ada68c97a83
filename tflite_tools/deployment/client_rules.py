"""What other programs demand of a `.tflite`, above all what they misread without a word.

Each rule was measured with the program itself (`clients/` at the root runs them again) or, for
the Edge TPU, read in its documentation. A finding that is `fatal` gives an error there or, worse,
a wrong mask; the others cost speed,
or names, or a few pixels along edges.
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
"""Vela 5.2 maps ARG_MAX along the depth of at most so many channels."""

_JAVASCRIPT_DTYPES = ("FLOAT32", "INT32", "UINT8")
"""Element types that @litertjs/core 2.5.3 has typed arrays for."""


class Client(enum.Enum):
    """Who is going to read the file."""

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
        fault: what was found and what the client makes of it.
        cure: what to do.
        fatal: True for an error or a wrong mask, False for what only costs something.
    """

    fault: str
    cure: str
    fatal: bool = True


@dataclasses.dataclass(frozen=True)
class Inspected:
    """A file as the rules see it.

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
        return self.graph.tensors[self.graph.inputs[0]]

    @property
    def output(self) -> Tensor:
        return self.graph.tensors[self.graph.outputs[0]]


def check_file(path: str | pathlib.Path, client: Client) -> list[Finding]:
    """The rules of `client` that a file breaks, fatal ones first.

    Raises:
        FileNotFoundError: no such file.
        ValueError: damaged, or its manifest is of another file.
    """
    graph = with_known_shapes(read_graph(path))
    inspected = Inspected(graph, packing.read(path), contract=read_contract(path))
    findings = [finding for rule in RULES[client] for finding in rule(inspected)]
    return sorted(findings, key=lambda finding: not finding.fatal)


def findings_text(path: pathlib.Path, client: Client, *, findings: list[Finding]) -> str:
    """One line for each finding, or one that says that there is none."""
    begin = f"{path}: {client.value}: "
    if not findings:
        compiler = client in (Client.EDGETPU, Client.ETHOSU)
        return begin + (
            "its form is right; which operators are mapped, the compiler tells"
            if compiler
            else "taken as it is"
        )
    return "\n".join(
        f"{begin}{'REFUSED' if finding.fatal else 'note'}: {finding.fault}; {finding.cure}"
        for finding in findings
    )


def _form(tensor: Tensor) -> str:
    return f"{tensor.type_name.lower()} {list(tensor.shape_signature)}"


def _static_batch_one(file: Inspected) -> Iterator[Finding]:
    dynamic = [t for t in file.graph.tensors if -1 in t.shape_signature and t.data is None]
    if dynamic or file.image.shape[:1] != (1,):
        yield Finding(
            f"the input is {_form(file.image)}, {len(dynamic)} tensors have a dynamic size",
            "convert with a fixed batch of 1 (export.to_tflite always does)",
        )


def _one_input_one_output(file: Inspected) -> Iterator[Finding]:
    inputs, outputs = len(file.graph.inputs), len(file.graph.outputs)
    if inputs != 1 or outputs != 1:
        yield Finding(
            f"{inputs} inputs and {outputs} outputs where one of each is expected",
            "cut the graph down to the image and the logits",
        )


def _mediapipe_input(file: Inspected) -> Iterator[Finding]:
    image = file.image
    if image.type_name not in ("UINT8", "FLOAT32"):
        yield Finding(
            f"the input is {_form(image)}; only uint8 and float32 are taken",
            f"{_EXPORT} --input_dtype=uint8",
        )
    if len(image.shape) == 4 and image.shape[3] != 3:
        yield Finding(
            f"the input has {image.shape[3]} channels; only RGB is fed", "train with 3 channels"
        )
    if image.type_name == "UINT8" and not _pixels_go_in_unchanged(file):
        yield Finding(
            "the input's scale and zero point want other bytes than the camera's, which are fed "
            "unchanged: the mask would be wrong in silence",
            f"{_EXPORT} the same mean and std for all channels, or --input_dtype=float32",
        )
    if image.type_name == "FLOAT32" and not (file.metadata and file.metadata.preprocessing):
        yield Finding("a float input without normalization in the metadata is an error", _ADD)


def _pixels_go_in_unchanged(file: Inspected) -> bool:
    """Within one gray level."""
    table = file.contract.quantize_table()
    return table is None or bool(np.abs(table - np.arange(256.0)[:, None]).max() <= 1)


def _mediapipe_output(file: Inspected) -> Iterator[Finding]:
    output = file.output
    cure = f"{_EXPORT} --heads=logits; the arg max is MediaPipe's own work"
    if output.type_name == "INT64":
        yield Finding(f"the output is {_form(output)}: an error at the first picture", cure)
    elif len(output.shape) != 4 or output.shape[3] < 2:
        yield Finding(
            f"the output is {_form(output)}, a class map: its rows are taken for classes, the "
            "mask is wrong in silence",
            cure,
        )
    elif output.type_name not in ("UINT8", "INT8", "FLOAT32"):
        yield Finding(
            f"the output is {_form(output)}; only uint8, int8 and float32 are taken",
            f"{_EXPORT} --output_dtype=uint8",
        )
    elif file.contract.needs_resize and file.contract.alignment is not Alignment.ALIGN_CORNERS:
        trained = file.contract.alignment
        yield Finding(
            f"logits of {output.shape[1]}x{output.shape[2]} are enlarged with align_corners, "
            + (
                f"the training resizes {trained.value}: edges move by up to half a cell"
                if trained
                else "nothing says how the training resizes: edges may move by up to half a cell"
            ),
            f"{_EXPORT} --heads=logits for the exact mask",
            fatal=False,
        )


def _own_resize(file: Inspected) -> Iterator[Finding]:
    """Where the program itself enlarges the logits, it must do so as the training did."""
    if not file.contract.needs_resize:
        return
    rows, columns = file.contract.output_size
    form = "the class map" if file.contract.classes_output else "logits"
    trained = file.contract.alignment
    yield Finding(
        f"{form} of {rows}x{columns} must be resized to {file.contract.height}x"
        f"{file.contract.width} by the program that reads them, "
        + (f"with {trained.value}" if trained else "and nothing says with which convention"),
        f"resize with {trained.value} before the arg max"
        if trained
        else f"{_ADD} --resize=CONVENTION, the one of the training",
        fatal=False,
    )


def _labels_fit(file: Inspected) -> Iterator[Finding]:
    labels = file.metadata.labels if file.metadata else ()
    channels = file.output.shape[-1]
    if labels and len(file.output.shape) == 4 and len(labels) != channels:
        yield Finding(
            f"{len(labels)} labels for {channels} channels: nobody counts them, names are wrong "
            "in silence",
            f"{_ADD} --labels=LABELS",
        )
    if not labels:
        yield Finding("no labels in the file: its classes have no names", _ADD, fatal=False)


def _javascript_ends(file: Inspected) -> Iterator[Finding]:
    ends = (("input", file.image, "input_dtype"), ("output", file.output, "output_dtype"))
    for place, tensor, flag in ends:
        if tensor.type_name not in _JAVASCRIPT_DTYPES:
            yield Finding(
                f"the {place} is {_form(tensor)}; its tensors are float32, int32 or uint8, "
                "anything else is an error at the first picture",
                f"{_EXPORT} --{flag}=uint8",
            )


def _integer_only(file: Inspected) -> Iterator[Finding]:
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


def _eight_bits(file: Inspected) -> Iterator[Finding]:
    wide = [t for t in file.graph.tensors if t.type_name == "INT16"]
    if wide:
        yield Finding(
            f"{len(wide)} tensors are int16; only 8-bit tensors are mapped",
            f"{_EXPORT} --variants=int8",
        )


def _integer_ends(file: Inspected) -> Iterator[Finding]:
    ends = (("input", file.image, "input_dtype"), ("output", file.output, "output_dtype"))
    for place, tensor, flag in ends:
        if tensor.is_float:
            yield Finding(
                f"the {place} is {_form(tensor)}: conversions run on the processor",
                f"{_EXPORT} --variants=int8 --{flag}=int8",
                fatal=False,
            )


def _no_space_to_batch(file: Inspected) -> Iterator[Finding]:
    kinds = ("SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND")
    count = sum(operator.kind in kinds for operator in file.graph.operators)
    if count:
        yield Finding(
            f"{count} SPACE_TO_BATCH_ND and BATCH_TO_SPACE_ND around atrous convolutions",
            "convert with a fixed batch of 1, which keeps dilated convolutions whole",
            fatal=False,
        )


def _argmax_on_processor(file: Inspected) -> Iterator[Finding]:
    if any(operator.kind == "ARG_MAX" for operator in file.graph.operators):
        yield Finding(
            "ARG_MAX is not mapped: it and all behind it run on the processor",
            f"{_EXPORT} --heads=logits_low and take the arg max there",
            fatal=False,
        )


def _argmax_depth(file: Inspected) -> Iterator[Finding]:
    for operator in file.graph.operators:
        if operator.kind == "ARG_MAX":
            channels = file.graph.tensors[operator.inputs[0]].shape[-1]
            if channels > _MAX_ARGMAX_CHANNELS:
                yield Finding(
                    f"ARG_MAX over {channels} channels, at most {_MAX_ARGMAX_CHANNELS} are mapped",
                    f"{_EXPORT} --heads=logits",
                    fatal=False,
                )


def _enlarged_by_two(file: Inspected) -> Iterator[Finding]:
    """Ethos-U55 and U65 have half-pixel bilinear for a factor of two alone."""
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
            f"{_EXPORT} --heads=logits_low to leave the last one out",
            fatal=False,
        )


RULES: dict[Client, tuple[Callable[[Inspected], Iterator[Finding]], ...]] = {
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

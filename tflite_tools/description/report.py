"""A description as text for a person and as values for JSON."""

import dataclasses

from tflite_tools.description.description import Description, InputDescription, OperatorCount
from tflite_tools.description.outputs import OutputDescription
from tflite_tools.flatbuffer.file_bytes import read_model_bytes
from tflite_tools.json_values import finite
from tflite_tools.manifest import sha256_of
from tflite_tools.text_table import align

_LABEL = 10
_NAMES_SHOWN = 12


def as_text(description: Description) -> str:
    """Returns everything as text.

    Args:
        description: of the file.
    """
    lines = [*summary_lines(description), *(_line("operators", _operators(description)))]
    lines += _line("", _work(description))
    for warning in description.warnings:
        lines += _line("note", warning)
    if description.python:
        lines += ["", "Python:", "", *_indented(description.python)]
        lines += ["", "Kotlin (Android):", "", *_indented(description.kotlin)]
    table = _time_table(description.operators)
    if table:
        lines += ["", table]
    lines += ["", f"To be faster: {description.advice.sentence}"]
    return "\n".join(lines) + "\n"


def summary_lines(description: Description) -> list[str]:
    """Returns the contract at a glance: input, outputs, labels, format, bytes.

    Args:
        description: of the file.
    """
    lines = [f"{description.path.name}: {_bytes(description)}"]
    for number, tensor in enumerate(description.inputs):
        lines += _line("input" if number == 0 else "", _input(tensor))
        if number == 0:
            lines += _line("", description.normalization)
    several = len(description.outputs) > 1
    for number, output in enumerate(description.outputs):
        marked = " <- read as the mask" if several and number == description.read_output else ""
        lines += _line("output" if number == 0 else "", _output(output) + marked)
    lines += _line("labels", _labels(description))
    return [*lines, *_line("format", _format(description))]


def _line(label: str, text: str) -> list[str]:
    return [f"  {label:{_LABEL}}{text}"]


def _indented(code: str) -> list[str]:
    return [f"    {line}".rstrip() for line in code.splitlines()]


def _bytes(description: Description) -> str:
    size, download = description.size_bytes, description.download_bytes
    return f"{_amount(size, 'B')}, {_amount(download, 'B')} as a download (deflate)"


def _amount(value: int, unit: str) -> str:
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value} {unit}".rstrip()


def _input(tensor: InputDescription) -> str:
    layout = f", {tensor.layout}" if tensor.layout else ""
    if layout:
        channels = tensor.shape[1 if tensor.layout == "NCHW" else 3]
        layout += {3: ", RGB", 1: ", gray"}.get(channels, "")
    dynamic = "; a length may change" if tensor.dynamic else ""
    return f"{tensor.name!r}: {tensor.dtype} {list(tensor.shape)}{layout}{dynamic}"


def _output(output: OutputDescription) -> str:
    return f"{output.name!r}: {output.dtype} {list(output.shape)}: {output.meaning}"


def _labels(description: Description) -> str:
    names = description.labels
    if not names:
        return "none on record; classes are called by their number"
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return f"{len(names)}: {shown}{more}"


def _format(description: Description) -> str:
    if description.per_channel is None:
        return description.variant
    scales = "one scale per channel" if description.per_channel else "one scale per tensor"
    return f"{description.variant}, integer weights with {scales}"


def _operators(description: Description) -> str:
    return ", ".join(f"{each.count} {each.kind}" for each in description.operators)


def _work(description: Description) -> str:
    work = f"{_amount(description.multiply_adds, '')} multiply-adds"
    if description.ms is None:
        return f"{work}; not timed"
    return f"{work}; {_ms(description.ms)} ms here (fastest run, 1 thread)"


def _ms(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _time_table(operators: tuple[OperatorCount, ...]) -> str:
    timed = [each for each in operators if each.time_share is not None]
    if not timed:
        return ""
    total = sum(each.multiply_adds for each in timed) or 1
    rows = [
        [each.kind, str(each.count), f"{each.multiply_adds / total:.1%}", f"{each.time_share:.1%}"]
        for each in sorted(timed, key=lambda each: -(each.time_share or 0))
    ]
    header = [("operator", "<"), ("count", ">"), ("multiply-adds", ">"), ("time", ">")]
    return align(header, rows)


def as_json(description: Description) -> dict:
    """Returns everything as values for JSON.

    Args:
        description: of the file.
    """
    contract = description.contract
    values = {
        field.name: getattr(description, field.name)
        for field in dataclasses.fields(description)
        if field.name not in ("path", "contract")
    }
    for name in ("inputs", "outputs", "operators"):
        values[name] = [dataclasses.asdict(each) for each in values[name]]
    values["advice"] = dataclasses.asdict(description.advice)
    head = {
        "file": description.path.name,
        "sha256": sha256_of(read_model_bytes(description.path)),
        "contract": contract.to_json() if contract else None,
    }
    return finite(head | values)

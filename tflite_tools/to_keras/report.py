"""Writes the folder of an import: the network, its weights, its ranges and a report."""

import dataclasses
import html
import io
import json
import pathlib
from typing import Any

import numpy as np

from deeplab_tf import atomic_file
from deeplab_tf.graph.network import NetworkGraph
from deeplab_tf.runs.folder import RunFolder
from deeplab_tf.terminal import printable
from tflite_tools.to_keras.fidelity import Fidelity
from tflite_tools.to_keras.importer import ImportedNetwork, ReportRow
from tflite_tools.to_keras.run import ImportedRun
from tflite_tools.to_keras.self_check import SelfCheck

NETWORK, WEIGHTS, RANGES = "network.json", "float.npz", "ranges.json"
REPORT_JSON, REPORT_MARKDOWN = "report.json", "report.md"


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished import.

    Attributes:
        source: the `.tflite`.
        network: the network as it was read.
        description: the network to write, which may have another head or batch norms.
        arrays: its weights.
        labels: class names of the manifest, else of the file, or ().
        steps: edits of the network, in words.
        fidelity: agreement of each output with the file; empty where no comparison was requested.
        versions: {package: version}.
        run: the network as a training run, or None.
        no_run: why there is no run, or "".
        self_check: comparison of the network as it was read with its file, or None.
    """

    source: pathlib.Path
    network: ImportedNetwork
    description: NetworkGraph
    arrays: dict[str, np.ndarray]
    labels: tuple[str, ...]
    steps: tuple[str, ...]
    fidelity: tuple[Fidelity, ...]
    versions: dict[str, str]
    run: ImportedRun | None = None
    no_run: str = ""
    self_check: SelfCheck | None = None

    @property
    def ranges(self) -> dict[str, dict]:
        """The ranges of tensors that the written network still has."""
        names = {node.name for node in self.description.nodes} | {self.description.input_name}
        return {name: values for name, values in self.network.ranges.items() if name in names}

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values."""
        return {
            "source": self.source.name,
            "input": self.network.contract.to_json(),
            "labels": self.labels or None,
            "steps": self.steps,
            "operators": [_row_to_json(row) for row in self.network.rows],
            "fidelity": dataclasses.asdict(self.fidelity[0]) if self.fidelity else None,
            "fidelity_of_further_outputs": {
                name: dataclasses.asdict(one)
                for name, one in zip(
                    self.network.description.further_outputs, self.fidelity[1:], strict=True
                )
            }
            if self.fidelity
            else {},
            "self_check": dataclasses.asdict(self.self_check) if self.self_check else None,
            "weights": int(sum(value.size for value in self.arrays.values())),
            "versions": self.versions,
        }


def check_output(output_dir: pathlib.Path, overwrite: bool) -> None:
    """Checks that the folder may be written.

    Args:
        output_dir: the folder.
        overwrite: whether an earlier import may be replaced.

    Raises:
        FileExistsError: the folder holds an import or a run, and `overwrite` is not set.
    """
    for name in (NETWORK, WEIGHTS, "config.json"):
        if (output_dir / name).exists() and not overwrite:
            raise FileExistsError(
                f"{output_dir / name} exists; give another --output_dir or --overwrite"
            )


def write_result(result: Result, output_dir: pathlib.Path) -> None:
    """Writes all files, each atomically; config.json, which makes the folder a run, is the last.

    Args:
        result: the import.
        output_dir: the folder.
    """
    stream = io.BytesIO()
    np.savez(stream, **result.arrays)  # type: ignore[arg-type]
    atomic_file.write_bytes(output_dir / WEIGHTS, stream.getvalue())
    _write_json(output_dir / RANGES, result.ranges)
    _write_json(output_dir / REPORT_JSON, result.to_json())
    atomic_file.write_text(output_dir / REPORT_MARKDOWN, to_markdown(result))
    _write_json(output_dir / NETWORK, result.description.to_json())
    folder = RunFolder(output_dir)
    folder.config.unlink(missing_ok=True)  # of the import that is replaced
    if result.run:
        folder.prepare(result.run.config, result.run.label_set)


def _write_json(path: pathlib.Path, values: dict[str, Any]) -> None:
    atomic_file.write_text(path, json.dumps(values, indent=1) + "\n")


def to_markdown(result: Result) -> str:
    """Returns the report as Markdown.

    Args:
        result: the import.
    """
    lines = [f"# {result.source.name} as a Keras network", "", *_input_lines(result), ""]
    lines += [f"- {step}" for step in result.steps]
    lines.append("- " + _run_line(result))
    if result.self_check:
        lines += ["", *(f"- {line}" for line in result.self_check.lines())]
    if result.fidelity:
        lines.append("")
        lines += [
            _fidelity_line(one, name if result.fidelity[1:] else "")
            for name, one in zip(result.network.description.outputs, result.fidelity, strict=True)
        ]
    lines += ["", "| position | operator | tensor | became |", "|---:|---|---|---|"]
    lines += [
        f"| {row.position} | {row.operator} | {_cell(row.tensor)} | {_cell(row.became)} |"
        for row in result.network.rows
    ]
    ran_on = ", ".join(f"{name} {version}" for name, version in result.versions.items())
    return "\n".join([*lines, "", f"Ran on {ran_on}."]) + "\n"


def _cell(text: str) -> str:
    """Returns the first of the joined names, without characters that end a table cell."""
    first = text.split(";", maxsplit=1)[0].replace("|", "/").replace("\n", " ")
    return html.escape(printable(first), quote=False)


def _input_lines(result: Result) -> list[str]:
    contract = result.network.contract
    shape = "x".join(str(size) for size in contract.shape)
    lines = [f"Input: {contract.dtype} {shape}, tensor `{_cell(contract.tensor)}`."]
    if contract.quantization is not None:
        scale, zero_point = contract.quantization
        lines.append(f"real = {scale:.9g} * (quantized - {zero_point}) in the file.")
    if contract.is_known:
        mean, std = _values(contract.preprocessing.mean), _values(contract.preprocessing.std)
        lines.append(f"Network input = (pixel - {mean}) / {std} ({contract.source.value}).")
    else:
        lines.append(
            "Neither a manifest nor the file specifies the normalization of its input: give "
            "--mean and --std."
        )
    lines += [f"Warning: {warning}." for warning in contract.warnings if contract.is_known]
    names = ", ".join(result.labels) if result.labels else "none in the file"
    return [*lines, f"Labels: {names}."]


def _values(values: tuple[float, ...]) -> str:
    """Returns one number where all channels have the same value."""
    texts = [f"{value:.9g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else f"[{', '.join(texts)}]"


def _run_line(result: Result) -> str:
    if result.run is None:
        return f"no run to train or export: {result.no_run}"
    words = "a run: train with --init_from, export and evaluate with --run_dir this folder"
    if result.run.head:
        words += f"; left to the export's heads: {', '.join(result.run.head)}"
    if result.run.assumed:
        mean, std = (
            result.run.config.data.preprocessing.mean[0],
            result.run.config.data.preprocessing.std[0],
        )
        words += (
            f"; the file does not specify its normalization, (pixel - {mean:g}) / {std:g} is "
            "ASSUMED: give --mean and --std if that is wrong"
        )
    return words


def _fidelity_line(fidelity: Fidelity, output: str) -> str:
    text = (
        (f"- {output}: compared" if output else "Compared")
        + f" with the file ({fidelity.kernels} kernels) on {fidelity.images} images: "
        f"{100 * fidelity.equal_classes:.3f}% of the classes equal"
    )
    if fidelity.largest_difference is not None:
        text += f", largest difference {fidelity.largest_difference:.3g}"
    return text + "."


def _row_to_json(row: ReportRow) -> dict:
    return {
        "position": row.position,
        "operator": row.operator,
        "tensor": row.tensor,
        "became": row.became,
    }

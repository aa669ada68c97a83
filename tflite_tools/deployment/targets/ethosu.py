"""Arm Ethos-U: runs Vela, Arm's own compiler, in a child process.

What Vela maps is read from the file that it writes: an operator that still exists under its
own kind and output name stays on the CPU. (`--show-cpu-operations` lists the same, but fails with a
KeyError on some files.) Vela's warnings give the reasons, its CSV summary the estimates, for its
default system: the milliseconds hold for that system only.
"""

import collections
import csv
import importlib.metadata
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

from deeplab_tf import child_process
from deeplab_tf.scratch import scratch_folder
from tflite_tools.deployment.targets.result import Placement, TargetResult
from tflite_tools.flatbuffer.graph import Graph, Operator, read_graph

ACCELERATORS = (
    *(f"ethos-u55-{macs}" for macs in (32, 64, 128, 256)),
    *(f"ethos-u65-{macs}" for macs in (256, 512)),
    *(f"ethos-u85-{macs}" for macs in (128, 256, 512, 1024, 2048)),
)
"""The number is the multiply-accumulates per cycle."""
TIMEOUT_SECONDS = 600
_COMPILED = "CUSTOM:ethos-u"
_WARNING = re.compile(r"operator: \S+, ofm: '(.*)'\nReason: (.*)")
_TENSOR_IN_REASON = re.compile(r" \(.*\)$")
"""Removed, so that operators with the same reason share a row."""
_ESTIMATES = {
    "cycles_total": ("cycles", 1.0),
    "inference_time": ("time_ms", 1e3),
    "sram_memory_used": ("sram_kib", 1.0),
    "dram_memory_used": ("dram_kib", 1.0),
    "off_chip_flash_memory_used": ("flash_kib", 1.0),
    "nn_macs": ("macs", 1.0),
}


def check(graph: Graph, target: str) -> TargetResult:
    """Compiles the file for one accelerator and discards the compiled file.

    Args:
        graph: a checked file.
        target: one of ACCELERATORS.

    Raises:
        RuntimeError: Vela is not installed, failed, or took too long.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise RuntimeError(
            f"--target={target} needs Arm's compiler Vela, which is not installed; "
            "pip install 'deeplab-tflite[vela]'"
        )
    with scratch_folder("vela") as folder:
        text = _run_vela(graph.path, target, folder=folder)
        compiled = _read_compiled(graph.path, folder / "model_vela.tflite")
        summary = _summary(folder)
    placements, unknown = _placements(graph, compiled, text=text)
    return TargetResult(
        target,
        graph,
        placements=placements,
        partition=_partition(graph, compiled, placements=placements),
        source=_source(summary),
        warnings=tuple(unknown),
        estimates={
            name: factor * _number(summary[key]) for key, (name, factor) in _ESTIMATES.items()
        },
    )


def _read_compiled(path: pathlib.Path, compiled: pathlib.Path) -> Graph:
    try:
        return read_graph(compiled)
    except ValueError as error:
        what = str(error).removeprefix(f"{compiled}: ")
        raise RuntimeError(f"{path}: Vela's file cannot be read back ({what})") from error


def _source(summary: dict[str, str]) -> str:
    version = importlib.metadata.version("ethos-u-vela")
    clock_mhz = float(summary["core_clock"]) / 1e6
    return (
        f"Vela {version} compiled the file; estimates without the CPU's part, for "
        f"{summary['system_config']}, {summary['memory_mode']}, {clock_mhz:g} MHz"
    )


def _run_vela(path: pathlib.Path, target: str, *, folder: pathlib.Path) -> str:
    shutil.copyfile(path, folder / "model.tflite")  # Vela names its files after the model
    command = [sys.executable, "-m", "ethosu.vela", str(folder / "model.tflite")]
    command += [f"--output-dir={folder}", f"--accelerator-config={target}"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            cwd=folder,
            preexec_fn=child_process.end_child_with_parent,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise RuntimeError(f"{path}: Vela took more than {TIMEOUT_SECONDS} s") from error
    if done.returncode != 0 or not (folder / "model_vela.tflite").is_file():
        lines = (done.stderr + done.stdout).strip().splitlines() or ["no message"]
        raise RuntimeError(
            f"{path}: Vela failed (status {done.returncode}): {lines[-1]}; "
            f"a file that runs on the CPU need not compile for {target}"
        )
    return done.stdout + done.stderr


def _summary(folder: pathlib.Path) -> dict[str, str]:
    files = list(folder.glob("model_summary_*.csv"))
    if len(files) != 1:
        raise RuntimeError(f"expected one summary of Vela, got {len(files)}; install Vela 5.2.0")
    with files[0].open(newline="") as stream:
        row = next(csv.DictReader(stream), {})
    missing = {*_ESTIMATES, "system_config", "memory_mode", "core_clock"} - set(row)
    if missing:
        raise RuntimeError(
            f"Vela's summary has no column {min(missing)}: another version; install Vela 5.2.0"
        )
    return row


def _number(text: str) -> float:
    value = float(text)
    return value if value == value else 0.0  # nan where nothing was compiled


def _key(graph: Graph, operator: Operator) -> tuple[str, str]:
    return operator.kind, graph.tensors[operator.outputs[0]].name


def _placements(
    graph: Graph, compiled: Graph, *, text: str
) -> tuple[tuple[Placement, ...], list[str]]:
    """Returns the placements, and a line per operator on the CPU that is not in the file."""
    left = collections.Counter(
        _key(compiled, operator) for operator in compiled.operators if operator.kind != _COMPILED
    )
    # Only by output: Vela separates a fused activation and warns under its name.
    reasons = {name: _TENSOR_IN_REASON.sub("", why.strip()) for name, why in _WARNING.findall(text)}
    placements = []
    for operator in graph.operators:
        key = _key(graph, operator)
        reason = ""
        if left[key]:
            left[key] -= 1
            reason = reasons.get(key[1]) or "left on the CPU; Vela gives no reason"
        placements.append(Placement(operator, reason))
    unknown = [
        f"Vela left {kind} ({name}) on the CPU, which is not in the file under this name"
        for (kind, name), count in left.items()
        if count
    ]
    return tuple(placements), unknown


def _partition(graph: Graph, compiled: Graph, *, placements: tuple[Placement, ...]) -> str:
    blocks = sum(operator.kind == _COMPILED for operator in compiled.operators)
    mapped = sum(placement.mapped for placement in placements)
    return f"blocks on the NPU: {blocks}; {mapped} of {len(graph.operators)} operators of the file"

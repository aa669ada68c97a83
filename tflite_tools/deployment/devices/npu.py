"""Compiles a file for a vendor's NPU, with the vendor's own compiler where it is installed.

Nothing runs: the compiled file is for the device. The runtime's package has the compiler plugins;
what they call is the vendor's SDK, a package that fetches it when it is installed.
"""

import collections
import dataclasses
import importlib.util
import os
import pathlib
import re
import shutil
from typing import Any

from deeplab_tf.scratch import scratch_folder
from tflite_tools.deployment.devices import npu_targets
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.flatbuffer.graph import read_graph
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.memory import UNKNOWN

_SDK_NAMES = {"intel_openvino": "intel"}
"""Where a vendor's SDK is not named as its plugin."""
_SDK_VARIABLES = {"google_tensor": "GOOGLE_TENSOR_COMPILER_LIB"}
"""Environment variables that name a compiler in place of the SDK's package."""
_COMPILED = "CUSTOM:DISPATCH"
_DETAILS = re.compile(r"See (\S+\.error) for details")
_TIMEOUT_S = 1800.0


def check_sdk(target: str) -> None:
    """Checks that the vendor's SDK is installed.

    Args:
        target: `vendor:SoC`.

    Raises:
        UnavailableError: it is not; the message names it.
    """
    vendor = target.partition(":")[0]
    name = _SDK_NAMES.get(vendor, vendor)
    variable = _SDK_VARIABLES.get(vendor, "")
    if importlib.util.find_spec(f"ai_edge_litert_sdk_{name}") or os.environ.get(variable):
        return
    package = f"ai-edge-litert-sdk-{name.replace('_', '-')}"
    other = f" (or set {variable})" if variable else ""
    raise UnavailableError(
        f"the vendor's SDK is missing: pip install {package}{other}; it is fetched from the vendor "
        "when it is installed"
    )


def run(target: str, model: pathlib.Path, *, output_dir: pathlib.Path | None) -> list[DeviceRun]:
    """Compiles a file; the run has no outputs.

    Args:
        target: `vendor:SoC`.
        model: the file.
        output_dir: folder that keeps the compiled file; None: it is removed.

    Raises:
        UnavailableError: the vendor's SDK is missing.
    """
    check_sdk(target)
    vendor, _, soc = target.partition(":")
    title = f"compiled for {soc}"
    with scratch_folder("npu") as folder:
        file = NpuFile(model, vendor, soc=soc, folder=folder)
        with ChildPool([file], processes=1, timeout_s=_TIMEOUT_S) as pool:
            [outcome] = pool.run([Task(0, NpuFile.compile, arguments=())])
        if outcome.failure:
            return [DeviceRun(title, None, failure=_with_details(outcome.failure))]
        compiled, counts = outcome.value
        fallback = left_on_cpu(compiled)
        kept: tuple[str, ...] = ()
        if output_dir is not None:
            output_dir.mkdir(parents=True, exist_ok=True)
            kept = (f"kept as {shutil.copy(compiled, output_dir / f'{model.stem}_{soc}.tflite')}",)
    return [DeviceRun(title, None, fallback=fallback, notes=(*counts, *kept))]


@dataclasses.dataclass(frozen=True)
class NpuFile:
    """A file that a child process compiles.

    Attributes:
        path: of the file.
        vendor, soc: what for.
        folder: of what the compiler writes.
    """

    path: pathlib.Path
    vendor: str
    soc: str
    folder: pathlib.Path

    def open(self, num_threads: int) -> "NpuFile":
        """Returns itself: there is no interpreter.

        Args:
            num_threads: not used.
        """
        del num_threads
        return self

    def memory_bytes(self) -> int:
        """Returns no bound: a vendor's compiler takes what it takes."""
        return UNKNOWN

    def compile(self) -> tuple[pathlib.Path, tuple[str, ...]]:
        """Compiles the file.

        Returns:
            The compiled file, and how many operators the NPU takes, one line per subgraph.

        Raises:
            ValueError: the compiler refuses it.
        """
        from ai_edge_litert.aot import aot_compile  # noqa: PLC0415

        module = npu_targets.target_module(self.vendor)
        result: Any = aot_compile.aot_compile(
            str(self.path),
            output_dir=str(self.folder),
            target=module.Target(module.SocModel(self.soc)),
            keep_going=False,
        )
        [model] = result.models
        counts = tuple(
            f"{part.num_ops_offloaded} of {part.num_total_ops} operators on the NPU in "
            f"{part.num_partitions_offloaded} part(s)"
            for part in model.partition_stats.subgraph_stats
        )
        return pathlib.Path(model.path), counts


def left_on_cpu(compiled: pathlib.Path) -> tuple[str, ...]:
    """Returns the operators of a compiled file that the NPU did not take, by kind.

    Args:
        compiled: the file.
    """
    try:
        operators = read_graph(compiled).operators
    except ValueError:  # a form of file that only the vendor's runtime reads
        return ()
    kinds = collections.Counter(
        operator.kind for operator in operators if not operator.kind.startswith(_COMPILED)
    )
    return tuple(f"{kind} ({count})" for kind, count in sorted(kinds.items()))


def _with_details(failure: str) -> str:
    """Replaces the name of the compiler's log by its last line; the log is removed."""
    named = _DETAILS.search(failure)
    if named is None or not (path := pathlib.Path(named.group(1))).is_file():
        return failure
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    path.unlink()
    return f"the vendor's compiler refuses the file: {lines[-1].strip() if lines else 'no reason'}"

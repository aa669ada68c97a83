"""The runtime's GPU path on a software Vulkan driver: its kernels' numbers without a GPU.

SwiftShader, which Chromium carries, computes in single precision only and says nothing if it is
asked for half. Mesa's lavapipe has half precision, which phones use; the first run on it compiles
for a minute or more.
"""

import contextlib
import ctypes.util
import dataclasses
import importlib.util
import os
import pathlib
import re
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from tflite_tools.deployment.devices import debian
from tflite_tools.deployment.devices.environments import environment
from tflite_tools.deployment.devices.programs import UnavailableError
from tflite_tools.deployment.devices.reference import Outputs
from tflite_tools.deployment.devices.result import DeviceRun
from tflite_tools.flatbuffer.graph import Graph
from tflite_tools.runtime.child_pool import ChildPool, Task
from tflite_tools.runtime.memory import UNKNOWN

_BROWSER_FOLDERS = ("usr/lib/chromium", "opt/google/chrome")
"""Where Chromium's packages put SwiftShader, below the root of a system."""
_SWIFTSHADER = ("libvk_swiftshader.so", "vk_swiftshader_icd.json")
_ACCELERATOR = "libLiteRtWebGpuAccelerator.so"
_LOADER = "libvulkan.so.1"
_TIMEOUT_S = 1200.0
_ATTEMPTS = 2
"""A software driver that starts cold fails now and then."""
_ADAPTER = re.compile(r"Selected adapter: (.*?), arch=")
_UNSUPPORTED = "operations are not supported by GPU delegate"
_SPLIT = re.compile(r"(\d+) operations will run on the GPU.*?(\d+) operations will run on the CPU")


@dataclasses.dataclass(frozen=True)
class Driver:
    """A software Vulkan driver in the cache.

    Attributes:
        description: the JSON file that tells Vulkan's loader of it.
        libraries: folder of the loader and of what the driver needs.
    """

    description: pathlib.Path
    libraries: pathlib.Path


def check_runtime() -> None:
    """Checks that the runtime's package has a GPU path.

    Raises:
        UnavailableError: this build has none.
    """
    spec = importlib.util.find_spec("ai_edge_litert")
    folders = spec.submodule_search_locations if spec else None
    if not any((pathlib.Path(folder) / _ACCELERATOR).is_file() for folder in folders or ()):
        raise UnavailableError(
            f"ai-edge-litert here has no {_ACCELERATOR}; use its build for Linux on x86-64"
        )


def prepare_swiftshader(cache: pathlib.Path) -> Driver:
    """Returns SwiftShader, copied from Chromium or from Debian's package of it.

    Args:
        cache: folder of all environments.

    Raises:
        UnavailableError: neither can be had.
    """
    folder = environment(
        cache / "swiftshader", "recipe 1\n", make=_make_swiftshader, works=_check_swiftshader
    )
    return Driver(folder / _SWIFTSHADER[1], folder)


def _make_swiftshader(folder: pathlib.Path) -> None:
    work = folder / "work"
    source = _with_swiftshader(pathlib.Path("/"))
    if source is None:
        debian.unpack(debian.Request(("chromium",), alone=True), folder / "chromium", work=work)
        source = _with_swiftshader(folder / "chromium")
    if source is None:
        raise UnavailableError("Chromium's package here has no SwiftShader; run this on Debian 12")
    for name in _SWIFTSHADER:
        shutil.copy(source / name, folder / name)
    if (source / _LOADER).is_file():
        shutil.copy(source / _LOADER, folder / _LOADER)
    elif ctypes.util.find_library("vulkan") is None:
        debian.unpack(debian.Request(("libvulkan1",), alone=True), folder / "loader", work=work)
        [found] = (folder / "loader").rglob(_LOADER)
        shutil.copy(found, folder / _LOADER)
    for name in ("chromium", "loader"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _with_swiftshader(root: pathlib.Path) -> pathlib.Path | None:
    folders = [root / name for name in _BROWSER_FOLDERS]
    return next((path for path in folders if (path / _SWIFTSHADER[0]).is_file()), None)


def _check_swiftshader(folder: pathlib.Path) -> None:
    if not all((folder / name).is_file() for name in _SWIFTSHADER):
        raise RuntimeError(f"{folder}: expected {' and '.join(_SWIFTSHADER)}")


def prepare_lavapipe(cache: pathlib.Path) -> Driver:
    """Returns Mesa's lavapipe from Debian's backports, unpacked.

    Args:
        cache: folder of all environments.

    Raises:
        UnavailableError: this machine does not fetch Debian packages, or cannot.
    """
    folder = environment(
        cache / "lavapipe", "recipe 1\n", make=_make_lavapipe, works=_lavapipe_description
    )
    description = _lavapipe_description(folder)
    [library] = folder.rglob("libvulkan_lvp.so")
    return Driver(description, library.parent)


def _make_lavapipe(folder: pathlib.Path) -> None:
    request = debian.Request(("mesa-vulkan-drivers", "libvulkan1"), backports=True, c_library=False)
    debian.unpack(request, folder / "root", work=folder / "work")


def _lavapipe_description(folder: pathlib.Path) -> pathlib.Path:
    found = sorted((folder / "root").rglob("lvp_icd*.json"))
    if not found:
        raise UnavailableError("Debian's mesa-vulkan-drivers here has no lavapipe")
    return found[0]


def run(
    driver: Driver,
    graph: Graph,
    *,
    inputs: list[np.ndarray],
    half: bool,
) -> list[DeviceRun]:
    """Runs a file on the runtime's GPU path; what the GPU does not take runs on the CPU.

    Args:
        driver: to run it on.
        graph: the file.
        inputs: values of its input, one array per picture.
        half: half precision, where the driver has it.
    """
    file = GpuFile(graph.path, half, image=graph.inputs[0], outputs=tuple(graph.outputs))
    failure = ""
    for _ in range(_ATTEMPTS):
        with _use(driver), ChildPool([file], processes=1, timeout_s=_TIMEOUT_S) as pool:
            [outcome] = pool.run([Task(0, GpuRunner.run, arguments=(inputs,))])
        if not outcome.failure:
            return [_told(*outcome.value)]
        failure = failure or outcome.failure
    return [DeviceRun("", None, failure=failure)]


@contextlib.contextmanager
def _use(driver: Driver) -> Iterator[None]:
    """Sets the environment that child processes start with."""
    own = [path for path in (os.environ.get("LD_LIBRARY_PATH"),) if path]
    values = {
        "LD_LIBRARY_PATH": os.pathsep.join([str(driver.libraries), *own]),
        "VK_ICD_FILENAMES": str(driver.description),
    }
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclasses.dataclass(frozen=True)
class GpuFile:
    """A file that a child process opens on the GPU path.

    Attributes:
        path: of the file.
        half: half precision.
        image: tensor of the input.
        outputs: tensors of the outputs, in the file's order.
    """

    path: pathlib.Path
    half: bool
    image: int
    outputs: tuple[int, ...]

    def open(self, num_threads: int) -> "GpuRunner":
        """Compiles it for the GPU.

        Args:
            num_threads: of what runs on the CPU.
        """
        return GpuRunner(self, num_threads)

    def memory_bytes(self) -> int:
        """Returns no bound: a software driver reserves what the machine has."""
        return UNKNOWN


class GpuRunner:
    """A file on the GPU path, in a child process whose stderr it takes to read the runtime's log.

    Args:
        file: the file.
        num_threads: of what runs on the CPU.

    Raises:
        RuntimeError: the runtime refuses the file.
    """

    def __init__(self, file: GpuFile, num_threads: int) -> None:
        from ai_edge_litert import compiled_model as runtime  # noqa: PLC0415

        self._file = file
        self._log = tempfile.TemporaryFile("w+b")  # noqa: SIM115
        for stream in (1, 2):  # a line of it goes to stdout
            os.dup2(self._log.fileno(), stream)
        kinds = runtime.HardwareAccelerator
        options = runtime.Options(
            hardware_accelerators=kinds.GPU | kinds.CPU,
            cpu_options=runtime.CpuOptions(num_threads=num_threads),
            gpu_options=runtime.GpuOptions(enforce_f32=not file.half),
        )
        try:
            self._model: Any = runtime.CompiledModel.from_file(str(file.path), options=options)
        except RuntimeError as error:
            raise RuntimeError(_refusal(self.log()) or str(error)) from error

    def log(self) -> str:
        """Returns what the runtime has said so far."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")

    def run(self, inputs: list[np.ndarray]) -> tuple[Outputs, str]:
        """Runs the file on every input.

        Args:
            inputs: one array per picture.

        Returns:
            The outputs, and the runtime's log.
        """
        model = self._model
        [key] = list(model.get_signature_list())[:1]
        fed, read = model.create_input_buffers(0), model.create_output_buffers(0)
        details = list(model.get_output_tensor_details(key).values())
        given = zip(fed, model.get_input_tensor_details(key).values(), strict=True)
        places = {detail["index"]: buffer for buffer, detail in given}
        found = []
        for values in inputs:
            places[self._file.image].write(values)
            model.run_by_index(0, fed, read)
            raw = zip(read, details, strict=True)
            named = {detail["index"]: _array(buffer, detail) for buffer, detail in raw}
            found.append([named[index] for index in self._file.outputs])
        return found, self.log()


def _array(buffer: Any, detail: dict) -> np.ndarray:
    """Reads an output; its bytes, since the runtime's Python does not know every type."""
    dtype, shape = np.dtype(detail["dtype"]), tuple(detail["shape"])
    size = int(np.prod(shape)) * dtype.itemsize
    return buffer.read(size, np.int8).view(dtype).reshape(shape)


def _refusal(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if "ERROR" in line or line.startswith("E0")]
    return lines[0].partition("] ")[2] or lines[0] if lines else ""


def _told(outputs: Outputs, log: str) -> DeviceRun:
    adapter = _ADAPTER.search(log)
    fallback, on_gpu = fallback_of(log)
    notes = () if on_gpu else ("no operator ran on the GPU",)
    title = adapter.group(1) if adapter else "no GPU"
    return DeviceRun(title, outputs, fallback=fallback, notes=notes)


def fallback_of(log: str) -> tuple[tuple[str, ...], bool]:
    """Reads from the runtime's log what ran on the CPU.

    Args:
        log: what it wrote to stderr.

    Returns:
        One line per unsupported operator, as the runtime words it, and whether any operator ran on
        the GPU.
    """
    lines = log.splitlines()
    start = next((number for number, line in enumerate(lines) if _UNSUPPORTED in line), None)
    found: list[str] = []
    if start is not None:
        for line in lines[start + 1 :]:
            if not re.match(r"[A-Z][A-Z0-9_]*: ", line):
                break
            found.append(" ".join(line.split()))
    split = _SPLIT.search(log)
    if split and int(split.group(2)):
        found.append(f"{split.group(2)} of {int(split.group(1)) + int(split.group(2))} operators")
    return tuple(dict.fromkeys(found)), "Selected adapter" in log and split_has_gpu(split)


def split_has_gpu(split: re.Match[str] | None) -> bool:
    """Returns whether the runtime's own count has an operator on the GPU.

    Args:
        split: its line, or None if it gave none, which it does when all are there.
    """
    return split is None or int(split.group(1)) > 0
